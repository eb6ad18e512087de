//! JSON that means one thing: no member twice, no deep nesting; and what a token says in it.

use std::fmt;
use std::ops::Deref;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::MAX_DEPTH;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// A text; also a number without fraction and a truth value, as JSON writes them, once a token
    /// is verified.
    Text(Box<str>),
    /// A list.
    List(Vec<Self>),
    /// An object.
    Object(Claims),
    /// What no policy can be about: `null`, or a number with a fraction.
    Opaque,
}

/// An object. Its members are sorted by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claims(Vec<(Box<str>, Claim)>);

impl Claims {
    /// A member.
    pub fn get(&self, name: &str) -> Option<&Claim> {
        let found = self.0.binary_search_by(|(member, _)| (**member).cmp(name));
        found.ok().map(|at| &self.0[at].1)
    }

    /// A member of a member, outermost first.
    pub fn find<S: Deref<Target = str>>(&self, path: &[S]) -> Option<&Claim> {
        let (first, rest) = path.split_first()?;
        let mut found = self.get(first)?;
        for name in rest {
            let Claim::Object(inner) = found else {
                return None;
            };
            found = inner.get(name)?;
        }
        Some(found)
    }

    /// About the bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let members = self.0.iter();
        members
            .map(|(name, value)| 16 + name.len() + value.bytes())
            .sum()
    }
}

impl Claim {
    fn bytes(&self) -> usize {
        let inner = match self {
            Self::Text(text) => text.len(),
            Self::List(items) => items.iter().map(Self::bytes).sum(),
            Self::Object(claims) => claims.bytes(),
            Self::Opaque => 0,
        };
        // An allocation has its overhead.
        size_of::<Self>() + 16 + inner
    }
}

/// What a token that holds says.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub(super) claims: Claims,
    pub(super) principal: Option<Box<str>>,
    pub(super) payload: Box<str>,
    pub(super) times: Times,
}

/// When a token is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) not_before: Option<u64>,
    pub(super) expires: Option<u64>,
}

impl Token {
    /// `ISSUER/SUBJECT`; `None` for a token without subject.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// A claim, by the path to it.
    pub fn claim<S: Deref<Target = str>>(&self, path: &[S]) -> Option<&Claim> {
        self.claims.find(path)
    }

    /// The payload as it was sent, base64url.
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// `exp`, in seconds since 1970.
    pub fn expires(&self) -> Option<u64> {
        self.times.expires
    }
}

#[cfg(test)]
impl Token {
    /// What a verified token with these claims would say.
    pub(crate) fn of_claims(json: &str) -> Self {
        let members = Members::read(json.as_bytes()).unwrap();
        let text = |name| members.text(name).unwrap().map(str::to_owned);
        let principal = text("iss").zip(text("sub"));
        let principal = principal.map(|(issuer, subject)| format!("{issuer}/{subject}").into());
        Self {
            claims: members.into_claims(),
            principal,
            payload: "".into(),
            times: Times::default(),
        }
    }
}

/// A value as it stands in the text: a number is not yet a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Text(Box<str>),
    /// A truth value or a number without fraction, as JSON writes it.
    Plain(Box<str>),
    Fraction(f64),
    Null,
    List(Vec<Self>),
    Object(Members),
}

/// Sorted by name, each name once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Members(Vec<(Box<str>, Json)>);

impl Members {
    /// Reads one object and nothing after it. The error says nothing of the content.
    pub(super) fn read(json: &[u8]) -> Result<Self, &'static str> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let value = Depth(MAX_DEPTH).deserialize(&mut deserializer);
        let value = value.map_err(|_| "no JSON, or a member twice, or too deep")?;
        deserializer.end().map_err(|_| "more than one JSON value")?;
        match value {
            Json::Object(members) => Ok(members),
            _ => Err("no JSON object"),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Json> {
        let found = self.0.binary_search_by(|(member, _)| (**member).cmp(name));
        found.ok().map(|at| &self.0[at].1)
    }

    /// A member that is a text, if it is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, NotText> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(_) => Err(NotText),
        }
    }

    pub(super) fn into_claims(self) -> Claims {
        let members = self.0.into_iter();
        Claims(
            members
                .map(|(name, value)| (name, value.into_claim()))
                .collect(),
        )
    }

    /// Makes lists of the words of these members, where they are texts.
    pub(super) fn split_words<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        for name in names {
            let found = self.0.binary_search_by(|(member, _)| (**member).cmp(name));
            let Ok(at) = found else { continue };
            if let Json::Text(text) = &self.0[at].1 {
                let words = text.split(' ').filter(|word| !word.is_empty());
                self.0[at].1 = Json::List(words.map(|word| Json::Text(word.into())).collect());
            }
        }
    }
}

/// A member is there and is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotText;

impl Json {
    fn into_claim(self) -> Claim {
        match self {
            Self::Text(text) | Self::Plain(text) => Claim::Text(text),
            Self::Fraction(_) | Self::Null => Claim::Opaque,
            Self::List(items) => Claim::List(items.into_iter().map(Self::into_claim).collect()),
            Self::Object(members) => Claim::Object(members.into_claims()),
        }
    }
}

/// Reads a value that nests at most so deep.
struct Depth(usize);

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Depth {
    fn inner<E: Error>(&self) -> Result<usize, E> {
        self.0
            .checked_sub(1)
            .ok_or_else(|| E::custom("nested too deep"))
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Plain(if value { "true" } else { "false" }.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Plain(value.to_string().into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Plain(value.to_string().into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Fraction(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Self(inner))? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut members: Vec<(Box<str>, Json)> = Vec::new();
        while let Some(name) = map.next_key()? {
            members.push((name, map.next_value_seed(Self(inner))?));
        }
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(A::Error::custom("a member twice"));
        }
        Ok(Json::Object(Members(members)))
    }
}
