//! One key of a set (RFC 7517), bound to the algorithms it may verify when it is read.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::algorithm::Algorithm;
use super::claims::{Json, Members};

/// Why a key of a set is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum KeyFault {
    /// Not an object, or a member is not what it has to be.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// Neither RSA, EC nor OKP. A symmetric key (`oct`) never verifies anything here.
    #[error("its type is not supported")]
    Type,
    /// A curve other than P-256, P-384, P-521 and Ed25519.
    #[error("its curve is not supported")]
    Curve,
    /// `use` or `key_ops` says that it is not for verifying.
    #[error("it is not for verifying signatures")]
    Use,
    /// `alg` is not one of its type.
    #[error("its algorithm is not one of its type")]
    Algorithm,
    /// An RSA modulus below 2,048 or above 8,192 bits, or an exponent below 3 or even.
    #[error("its size is out of bounds")]
    Size,
    /// It holds private parts: whoever reads the set can sign.
    #[error("it is a private key, and published")]
    Private,
    /// The cryptographic library refuses it; a point that is not on its curve, for one.
    #[error("it is no valid public key")]
    Invalid,
    /// The set has more than [`MAX_KEYS`](super::MAX_KEYS).
    #[error("it comes after too many others")]
    TooMany,
}

/// A key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) kid: Option<Box<str>>,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

impl Key {
    pub(super) fn read(json: &Json) -> Result<Self, KeyFault> {
        let Json::Object(jwk) = json else {
            return Err(KeyFault::Malformed("not an object"));
        };
        let kid = text(jwk, "kid")?.map(Into::into);
        if ["d", "p", "q", "dp", "dq", "qi", "oth"]
            .iter()
            .any(|part| jwk.get(part).is_some())
        {
            return Err(KeyFault::Private);
        }
        if !is_for_verifying(jwk)? {
            return Err(KeyFault::Use);
        }
        let wanted = match text(jwk, "alg")? {
            None => None,
            Some(name) => Some(Algorithm::parse(name).ok_or(KeyFault::Algorithm)?),
        };
        let verifiers = match text(jwk, "kty")? {
            Some("RSA") => rsa(jwk, wanted)?,
            Some("EC") => vec![elliptic(jwk, wanted)?],
            Some("OKP") => vec![edwards(jwk, wanted)?],
            Some(_) => return Err(KeyFault::Type),
            None => return Err(KeyFault::Malformed("no kty")),
        };
        Ok(Self { kid, verifiers })
    }

    /// How it verifies this algorithm, if it may.
    pub(super) fn verifier(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        let found = self.verifiers.iter().find(|(own, _)| *own == algorithm);
        found.map(|(_, key)| key)
    }
}

fn is_for_verifying(jwk: &Members) -> Result<bool, KeyFault> {
    let by_use = text(jwk, "use")?.is_none_or(|usage| usage == "sig");
    let by_operations = match jwk.get("key_ops") {
        None => true,
        Some(Json::List(operations)) => operations
            .iter()
            .any(|operation| matches!(operation, Json::Text(name) if **name == *"verify")),
        Some(_) => return Err(KeyFault::Malformed("key_ops")),
    };
    Ok(by_use && by_operations)
}

fn rsa(
    jwk: &Members,
    wanted: Option<Algorithm>,
) -> Result<Vec<(Algorithm, ParsedPublicKey)>, KeyFault> {
    const ALL: [(Algorithm, &RsaParameters); 6] = [
        (Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
        (Algorithm::Rs384, &RSA_PKCS1_2048_8192_SHA384),
        (Algorithm::Rs512, &RSA_PKCS1_2048_8192_SHA512),
        (Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256),
        (Algorithm::Ps384, &RSA_PSS_2048_8192_SHA384),
        (Algorithm::Ps512, &RSA_PSS_2048_8192_SHA512),
    ];
    let (n, e) = (number(jwk, "n")?, number(jwk, "e")?);
    let bits = n.len() * 8 - n.first().map_or(0, |top| top.leading_zeros() as usize);
    let is_odd = e.last().is_some_and(|low| low & 1 == 1);
    if !(2048..=8192).contains(&bits) || !is_odd || e == [1] {
        return Err(KeyFault::Size);
    }
    let components = RsaPublicKeyComponents { n, e };
    let may = |(algorithm, _): &&(Algorithm, _)| wanted.is_none_or(|wanted| wanted == *algorithm);
    let verifiers = ALL.iter().filter(may).map(|(algorithm, parameters)| {
        let key = components.to_parsed_public_key(parameters);
        Ok((*algorithm, key.map_err(|_| KeyFault::Invalid)?))
    });
    let verifiers: Vec<_> = verifiers.collect::<Result<_, _>>()?;
    if verifiers.is_empty() {
        return Err(KeyFault::Algorithm);
    }
    Ok(verifiers)
}

fn elliptic(
    jwk: &Members,
    wanted: Option<Algorithm>,
) -> Result<(Algorithm, ParsedPublicKey), KeyFault> {
    let (algorithm, parameters, size): (_, &'static dyn VerificationAlgorithm, _) =
        match text(jwk, "crv")? {
            Some("P-256") => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32),
            Some("P-384") => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48),
            Some("P-521") => (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED, 66),
            Some(_) => return Err(KeyFault::Curve),
            None => return Err(KeyFault::Malformed("no crv")),
        };
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != size || y.len() != size {
        return Err(KeyFault::Malformed("x or y"));
    }
    let point = [&[4][..], &x, &y].concat();
    one(algorithm, parameters, &point, wanted)
}

fn edwards(
    jwk: &Members,
    wanted: Option<Algorithm>,
) -> Result<(Algorithm, ParsedPublicKey), KeyFault> {
    match text(jwk, "crv")? {
        Some("Ed25519") => one(Algorithm::EdDsa, &ED25519, &bytes(jwk, "x")?, wanted),
        Some(_) => Err(KeyFault::Curve),
        None => Err(KeyFault::Malformed("no crv")),
    }
}

fn one(
    algorithm: Algorithm,
    parameters: &'static dyn VerificationAlgorithm,
    key: &[u8],
    wanted: Option<Algorithm>,
) -> Result<(Algorithm, ParsedPublicKey), KeyFault> {
    if wanted.is_some_and(|wanted| wanted != algorithm) {
        return Err(KeyFault::Algorithm);
    }
    let key = ParsedPublicKey::new(parameters, key);
    Ok((algorithm, key.map_err(|_| KeyFault::Invalid)?))
}

fn text<'a>(jwk: &'a Members, name: &'static str) -> Result<Option<&'a str>, KeyFault> {
    jwk.text(name).map_err(|_| KeyFault::Malformed(name))
}

fn bytes(jwk: &Members, name: &'static str) -> Result<Vec<u8>, KeyFault> {
    let text = text(jwk, name)?.ok_or(KeyFault::Malformed(name))?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
    bytes.map_err(|_| KeyFault::Malformed(name))
}

/// A positive number. Some issuers write it with leading zeros.
fn number(jwk: &Members, name: &'static str) -> Result<Vec<u8>, KeyFault> {
    let bytes = bytes(jwk, name)?;
    let first = bytes.iter().position(|byte| *byte != 0);
    let first = first.ok_or(KeyFault::Malformed(name))?;
    Ok(bytes[first..].to_vec())
}
