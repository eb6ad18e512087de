//! A token taken apart (RFC 7515, compact form). Nothing of it is believed yet.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::MAX_TOKEN;
use super::algorithm::Algorithm;
use super::claims::Members;
use super::refusal::Refusal;

/// The parts of a token.
#[derive(Debug)]
pub(super) struct Unverified<'t> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<Box<str>>,
    /// The claims.
    pub(super) members: Members,
    /// What was signed.
    pub(super) signed: &'t str,
    /// The claims as they were sent.
    pub(super) payload: &'t str,
    pub(super) signature: Vec<u8>,
}

impl<'t> Unverified<'t> {
    pub(super) fn read(token: &'t str) -> Result<Self, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(PARTS)?;
        let (header, payload) = signed.split_once('.').ok_or(PARTS)?;
        if payload.contains('.') {
            return Err(PARTS);
        }
        let (algorithm, kid) = read_header(header)?;
        let members = Members::read(&decode(payload)?).map_err(Refusal::Malformed)?;
        Ok(Self {
            algorithm,
            kid,
            members,
            signed,
            payload,
            signature: decode(signature)?,
        })
    }
}

const PARTS: Refusal = Refusal::Malformed("not three parts");

fn read_header(header: &str) -> Result<(Algorithm, Option<Box<str>>), Refusal> {
    let header = Members::read(&decode(header)?).map_err(Refusal::Malformed)?;
    let text = |name| header.text(name);
    let algorithm = text("alg").map_err(|_| Refusal::Malformed("alg"))?;
    let algorithm = algorithm.ok_or(Refusal::Malformed("no alg"))?;
    let algorithm = Algorithm::parse(algorithm).ok_or(Refusal::Algorithm)?;
    if header.get("crit").is_some() {
        return Err(Refusal::Critical);
    }
    let kid = text("kid").map_err(|_| Refusal::Malformed("kid"))?;
    Ok((algorithm, kid.map(Into::into)))
}

fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part);
    bytes.map_err(|_| Refusal::Malformed("no base64url"))
}
