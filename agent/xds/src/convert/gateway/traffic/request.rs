//! Parts that act on requests and responses.

use std::sync::Arc;
use std::time::Duration;

use agent_model::gateway::SecretKey;
use agent_model::gateway::traffic::{
    BodyLimits, Compression, ContentCoding, Fault, FaultAbort, FaultDelay, GlobalLimit, Limit,
    LimitBy, RateLimit, Redis, RedisLogin, WhenGone,
};
use proto::gateway as wire;

use super::super::super::fields::{MAX_STRING, invalid, known, text};
use super::super::backend::{decode_tls, encode_tls};
use super::super::rule::status;
use super::super::{milliseconds, needed, optional, parts, text_of};
use super::{fraction, positive};
use crate::Error;

pub(super) fn decode_rate_limit(message: &wire::RateLimit) -> Result<RateLimit, Error> {
    Ok(RateLimit {
        local: message.local.as_ref().map(decode_limit).transpose()?,
        global: message.global.as_ref().map(decode_global).transpose()?,
    })
}

pub(super) fn encode_rate_limit(limit: &RateLimit) -> wire::RateLimit {
    wire::RateLimit {
        local: limit.local.as_ref().map(encode_limit),
        global: limit.global.as_ref().map(encode_global),
    }
}

fn decode_limit(message: &wire::Limit) -> Result<Limit, Error> {
    Ok(Limit {
        requests: message.requests,
        per: Duration::from_millis(positive("limit period", message.per_ms)?),
        burst: positive("limit burst", message.burst)?,
        by: parts("limit by", &message.by, decode_by)?,
    })
}

fn encode_limit(limit: &Limit) -> wire::Limit {
    wire::Limit {
        requests: limit.requests,
        per_ms: milliseconds(Some(limit.per)),
        burst: limit.burst,
        by: limit.by.iter().map(encode_by).collect(),
    }
}

fn decode_by(message: &wire::LimitBy) -> Result<LimitBy, Error> {
    use wire::limit_by::{By, Known};
    Ok(match message.by.as_ref().ok_or(Error::Missing("by"))? {
        By::Header(name) => LimitBy::Header(needed("limit header", name)?),
        By::Known(number) => known("limit by", *number, |by| {
            Some(match by {
                Known::SourceIp => LimitBy::SourceIp,
                Known::SourceIdentity => LimitBy::SourceIdentity,
                Known::Host => LimitBy::Host,
                Known::Path => LimitBy::Path,
                Known::Method => LimitBy::Method,
                Known::Unspecified => return None,
            })
        })?,
    })
}

fn encode_by(by: &LimitBy) -> wire::LimitBy {
    use wire::limit_by::{By, Known};
    let known = |known: Known| By::Known(known.into());
    wire::LimitBy {
        by: Some(match by {
            LimitBy::Header(name) => By::Header(name.to_string()),
            LimitBy::SourceIp => known(Known::SourceIp),
            LimitBy::SourceIdentity => known(Known::SourceIdentity),
            LimitBy::Host => known(Known::Host),
            LimitBy::Path => known(Known::Path),
            LimitBy::Method => known(Known::Method),
        }),
    }
}

fn decode_global(message: &wire::GlobalLimit) -> Result<GlobalLimit, Error> {
    let limit = message.limit.as_ref().ok_or(Error::Missing("limit"))?;
    let password = text("redis password", &message.redis_password, MAX_STRING)?;
    let user: Option<Arc<str>> = optional("redis user", &message.redis_user)?;
    let timeout = positive("redis timeout", message.redis_timeout_ms)?;
    Ok(GlobalLimit {
        limit: decode_limit(limit)?,
        redis: Redis {
            address: needed("redis address", &message.redis_address)?,
            tls: message.redis_tls.as_ref().map(decode_tls).transpose()?,
            login: (!password.is_empty()).then(|| RedisLogin {
                user,
                password: SecretKey::new(password.to_owned()),
            }),
            timeout: Duration::from_millis(timeout),
        },
        when_gone: match message.is_closed_without_redis {
            true => WhenGone::Closed,
            false => WhenGone::Open,
        },
    })
}

fn encode_global(global: &GlobalLimit) -> wire::GlobalLimit {
    let Redis {
        address,
        tls,
        login,
        timeout,
    } = &global.redis;
    let login = login.as_ref();
    wire::GlobalLimit {
        limit: Some(encode_limit(&global.limit)),
        redis_address: address.to_string(),
        redis_user: text_of(login.and_then(|login| login.user.as_ref())),
        redis_password: login.map_or_else(String::new, |login| login.password.expose().to_owned()),
        redis_timeout_ms: milliseconds(Some(*timeout)),
        is_closed_without_redis: global.when_gone == WhenGone::Closed,
        redis_tls: tls.as_ref().map(encode_tls),
    }
}

pub(super) fn decode_fault(message: &wire::Fault) -> Result<Fault, Error> {
    let delay = message.delay.as_ref().map(|delay| {
        Ok::<_, Error>(FaultDelay {
            duration: Duration::from_millis(delay.duration_ms),
            fraction: fraction("delay fraction", delay.numerator, delay.denominator)?,
        })
    });
    let abort = message.abort.as_ref().map(|abort| {
        let grpc_status = abort.grpc_status.map(|code| match u8::try_from(code) {
            Ok(code @ 1..=16) => Ok(code),
            _ => Err(invalid(
                "grpc status",
                format!("{code} is no status of an error"),
            )),
        });
        Ok::<_, Error>(FaultAbort {
            status: status(abort.status)?,
            grpc_status: grpc_status.transpose()?,
            fraction: fraction("abort fraction", abort.numerator, abort.denominator)?,
        })
    });
    Ok(Fault {
        delay: delay.transpose()?,
        abort: abort.transpose()?,
        expires: (message.expires > 0).then_some(message.expires),
    })
}

pub(super) fn encode_fault(fault: &Fault) -> wire::Fault {
    wire::Fault {
        delay: fault.delay.as_ref().map(|delay| wire::FaultDelay {
            duration_ms: milliseconds(Some(delay.duration)),
            numerator: delay.fraction.numerator,
            denominator: delay.fraction.denominator,
        }),
        abort: fault.abort.as_ref().map(|abort| wire::FaultAbort {
            status: abort.status.into(),
            grpc_status: abort.grpc_status.map(u32::from),
            numerator: abort.fraction.numerator,
            denominator: abort.fraction.denominator,
        }),
        expires: fault.expires.unwrap_or_default(),
    }
}

pub(super) fn decode_compression(message: &wire::Compression) -> Result<Compression, Error> {
    Ok(Compression {
        codings: parts("codings", &message.codings, |coding| {
            known("coding", *coding, |coding| match coding {
                wire::ContentCoding::Gzip => Some(ContentCoding::Gzip),
                wire::ContentCoding::Brotli => Some(ContentCoding::Brotli),
                wire::ContentCoding::Unspecified => None,
            })
        })?,
        content_types: parts("content types", &message.content_types, |kind| {
            needed("content type", kind)
        })?,
        min_length: message.min_length,
    })
}

pub(super) fn encode_compression(compression: &Compression) -> wire::Compression {
    let coding = |coding: &ContentCoding| match coding {
        ContentCoding::Gzip => wire::ContentCoding::Gzip,
        ContentCoding::Brotli => wire::ContentCoding::Brotli,
    };
    let types = compression.content_types.iter();
    wire::Compression {
        codings: compression
            .codings
            .iter()
            .map(|one| coding(one).into())
            .collect(),
        content_types: types.map(ToString::to_string).collect(),
        min_length: compression.min_length,
    }
}

pub(super) fn decode_body_limits(message: wire::BodyLimits) -> BodyLimits {
    BodyLimits {
        request: message.request,
    }
}

pub(super) fn encode_body_limits(limits: BodyLimits) -> wire::BodyLimits {
    wire::BodyLimits {
        request: limits.request,
    }
}
