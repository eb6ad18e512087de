//! Which responses are compressed, and the coders that do it piece by piece.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use agent_model::gateway::traffic::{Compression as Spec, ContentCoding};
use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, VARY,
};
use http::{Method, StatusCode};

/// What gzip spends: in the middle between time and size.
const GZIP_LEVEL: u32 = 5;
/// The same of brotli; higher levels cost more than they save on the fly.
const BROTLI_QUALITY: u32 = 4;
/// 2 to the power of this is how far back brotli looks, and about what it holds, in bytes.
const BROTLI_WINDOW: u32 = 18;
/// Output that is gathered before it is handed on.
const BUFFER: usize = 4096;

/// Which responses are compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    codings: Box<[Coding]>,
    types: Box<[Arc<str>]>,
    min_length: u64,
}

/// A coding of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`.
    Gzip,
    /// `br`.
    Brotli,
}

impl Coding {
    /// Its name in headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
        }
    }
}

impl Compression {
    pub(super) fn new(spec: &Spec) -> Self {
        let codings = spec.codings.iter().map(|coding| match coding {
            ContentCoding::Gzip => Coding::Gzip,
            ContentCoding::Brotli => Coding::Brotli,
        });
        Self {
            codings: codings.collect(),
            types: spec.content_types.as_slice().into(),
            min_length: spec.min_length,
        }
    }

    /// The coding that a client with these headers takes best; `None` for the content as it is.
    pub fn accepted(&self, headers: &HeaderMap) -> Option<Coding> {
        let fields = headers.get_all(ACCEPT_ENCODING).iter();
        let texts: Vec<&str> = fields.filter_map(|field| field.to_str().ok()).collect();
        let entries = || texts.iter().flat_map(|text| text.split(',')).map(entry);
        let quality = |name: &str| {
            let named = entries().find(|(of, _)| of.eq_ignore_ascii_case(name));
            let any = || entries().find(|(of, _)| *of == "*");
            named.or_else(any).map(|(_, quality)| quality)
        };
        // Content as it is is always taken, if not preferred to.
        let plain = entries().find(|(of, _)| of.eq_ignore_ascii_case("identity"));
        let plain = plain.map_or(1, |(_, quality)| quality);
        let mut best: Option<(Coding, u16)> = None;
        for coding in &self.codings {
            let quality = quality(coding.name()).unwrap_or(0);
            if quality > best.map_or(0, |(_, best)| best) {
                best = Some((*coding, quality));
            }
        }
        let explicit = entries().any(|(of, _)| of.eq_ignore_ascii_case("identity"));
        best.filter(|(_, quality)| !explicit || *quality >= plain)
            .map(|(coding, _)| coding)
    }

    /// True for a response that may be compressed at all, whoever asks for it.
    pub fn takes(&self, method: &Method, status: StatusCode, headers: &HeaderMap) -> bool {
        let has_content = *method != Method::HEAD
            && !status.is_informational()
            && ![
                StatusCode::NO_CONTENT,
                StatusCode::RESET_CONTENT,
                StatusCode::PARTIAL_CONTENT,
                StatusCode::NOT_MODIFIED,
            ]
            .contains(&status);
        has_content
            && !headers.contains_key(CONTENT_ENCODING)
            && !headers.contains_key(CONTENT_RANGE)
            && self.is_of_type(headers)
            && self.is_long(headers)
            && !forbids_transform(headers)
    }

    /// Says in the headers of a response that may be compressed that it is (`Some`), or that it
    /// would have been for others.
    pub fn mark(&self, headers: &mut HeaderMap, coding: Option<Coding>) {
        vary(headers);
        let Some(coding) = coding else {
            return;
        };
        let name = HeaderValue::from_static(coding.name());
        headers.insert(CONTENT_ENCODING, name);
        headers.remove(CONTENT_LENGTH);
        // Ranges would be of the content as it was.
        headers.remove(ACCEPT_RANGES);
        weaken(headers);
    }

    fn is_of_type(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(CONTENT_TYPE);
        let Some(value) = value.and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let kind = value.split(';').next().unwrap_or_default().trim();
        self.types
            .iter()
            .any(|wanted| match wanted.strip_suffix('*') {
                Some(prefix) => kind
                    .get(..prefix.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(prefix)),
                None => kind.eq_ignore_ascii_case(wanted),
            })
    }

    fn is_long(&self, headers: &HeaderMap) -> bool {
        let length = headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        length.is_none_or(|length| length >= self.min_length)
    }
}

/// A coding of `Accept-Encoding` and its quality in thousandths (RFC 9110, 12.5.3).
fn entry(text: &str) -> (&str, u16) {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| {
        let value = part
            .strip_prefix("q=")
            .or_else(|| part.strip_prefix("Q="))?;
        value.parse::<f32>().ok()
    });
    let quality = quality.filter(|quality| quality.is_finite());
    let quality = quality.unwrap_or(1.0).clamp(0.0, 1.0);
    // At most 1000.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1000"
    )]
    let quality = (quality * 1000.0) as u16;
    (name, quality)
}

/// RFC 9111, 5.2.2.6.
fn forbids_transform(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(CACHE_CONTROL).iter();
    let mut directives = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','));
    directives.any(|directive| directive.trim().eq_ignore_ascii_case("no-transform"))
}

/// Caches must not give one client what another one takes.
fn vary(headers: &mut HeaderMap) {
    let fields = headers.get_all(VARY).iter();
    let mut names = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .map(str::trim);
    let is_there = names.any(|name| name == "*" || name.eq_ignore_ascii_case("accept-encoding"));
    if !is_there {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// A strong validator would promise the same bytes (RFC 9110, 8.8.1).
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG) else {
        return;
    };
    if tag.as_bytes().starts_with(b"W/") {
        return;
    }
    match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        Ok(weak) => headers.insert(ETAG, weak),
        Err(_) => headers.remove(ETAG),
    };
}

/// Compresses a body as it comes: what went in comes out, but for what a coder still gathers. A
/// piece is complete for the reader, so that a stream of events stays one.
pub struct Coder(Inner);

enum Inner {
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
}

impl fmt::Debug for Coder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Coder")
    }
}

impl Coder {
    /// With nothing gone in.
    pub fn new(coding: Coding) -> Self {
        let out = Vec::new();
        Self(match coding {
            Coding::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Inner::Gzip(Box::new(GzEncoder::new(out, level)))
            }
            Coding::Brotli => {
                let writer = CompressorWriter::new(out, BUFFER, BROTLI_QUALITY, BROTLI_WINDOW);
                Inner::Brotli(Box::new(writer))
            }
        })
    }

    /// Takes a piece. What comes out may be empty.
    pub fn push(&mut self, data: &[u8]) -> Bytes {
        // Writing to memory does not fail.
        let out = match &mut self.0 {
            Inner::Gzip(coder) => {
                let _ = coder.write_all(data).and_then(|()| coder.flush());
                std::mem::take(coder.get_mut())
            }
            Inner::Brotli(coder) => {
                let _ = coder.write_all(data).and_then(|()| coder.flush());
                std::mem::take(coder.get_mut())
            }
        };
        out.into()
    }

    /// The end.
    pub fn finish(self) -> Bytes {
        match self.0 {
            Inner::Gzip(coder) => coder.finish().unwrap_or_default().into(),
            Inner::Brotli(coder) => coder.into_inner().into(),
        }
    }
}
