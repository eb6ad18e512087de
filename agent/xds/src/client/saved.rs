//! What a node writes down of the mesh, so that an agent which starts while the control plane is
//! away has something to go by. Authenticated neither by it nor by time: whoever may write the
//! file is root on the node, and what is old is refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_model::{Authorization, PolicyKey, Service, Workload};
use prost::Message;
use prost_types::Any;
use proto::discovery::{DeltaDiscoveryResponse, Resource};
use xxhash_rust::xxh64::xxh64;

use crate::convert::{encode_authorization, encode_service, encode_workload};
use crate::{Error, ResourceType};

/// What a file begins with; another form has another number.
const MAGIC: &[u8] = b"culvert mesh 1\n";
/// Seconds since 1970 when it was written, and the xxHash64 of what follows, with these seconds as
/// its seed; both big-endian.
const HEAD: usize = MAGIC.len() + 16;
/// What is older is of no use: no certificate lives longer by default.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// One thing that is written down.
#[derive(Debug, Clone, Copy)]
pub enum Kept<'a> {
    /// A workload.
    Workload(&'a Workload),
    /// A service.
    Service(&'a Service),
    /// A policy.
    Policy(&'a Authorization),
    /// A policy that was sent and could not be read.
    Unreadable(&'a PolicyKey),
}

/// The content of a file that [`crate::ClientSession::restore`] reads. Without versions, so that a
/// control plane that is back sends all of it again: the next release may read more of it.
pub fn save<'a>(kept: impl Iterator<Item = Kept<'a>>, at: SystemTime) -> Vec<u8> {
    let kinds = [ResourceType::Address, ResourceType::Authorization];
    let mut responses = kinds.map(|kind| DeltaDiscoveryResponse {
        type_url: kind.url().to_owned(),
        ..DeltaDiscoveryResponse::default()
    });
    let [addresses, policies] = &mut responses;
    for one in kept {
        let (of_type, name, body) = match one {
            Kept::Workload(it) => (&mut *addresses, it.uid.to_string(), encode_workload(it)),
            Kept::Service(it) => (&mut *addresses, it.key().to_string(), encode_service(it)),
            Kept::Policy(it) => (
                &mut *policies,
                it.key().to_string(),
                encode_authorization(it),
            ),
            Kept::Unreadable(key) => (&mut *policies, key.to_string(), unreadable()),
        };
        of_type.resources.push(Resource {
            name,
            resource: Some(body),
            ..Resource::default()
        });
    }
    let mut body = Vec::new();
    for response in &responses {
        body.extend(response.encode_length_delimited_to_vec());
    }
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |at| at.as_secs());
    let head = [seconds.to_be_bytes(), xxh64(&body, seconds).to_be_bytes()];
    [MAGIC, head.as_flattened(), &body].concat()
}

/// When it was written, and responses that bring all of it, policies first: a policy that is
/// listed and missing denies.
pub(super) fn read(
    content: &[u8],
    now: SystemTime,
) -> Result<(SystemTime, [DeltaDiscoveryResponse; 2]), Error> {
    let invalid = |why: &str| Error::Invalid {
        field: "saved mesh",
        why: why.to_owned(),
    };
    let head = content
        .get(..HEAD)
        .and_then(|head| head.strip_prefix(MAGIC));
    let numbers = head.and_then(|head| head.as_chunks::<8>().0.try_into().ok());
    let Some([seconds, hash]): Option<[[u8; 8]; 2]> = numbers else {
        return Err(invalid("it has another form"));
    };
    let mut body = &content[HEAD..];
    let seconds = u64::from_be_bytes(seconds);
    if xxh64(body, seconds) != u64::from_be_bytes(hash) {
        return Err(invalid("it is not what was written"));
    }
    let at = Duration::from_secs(seconds);
    let at = UNIX_EPOCH
        .checked_add(at)
        .ok_or_else(|| invalid("no time"))?;
    // A clock that went back makes nothing younger.
    let age = now.duration_since(at).unwrap_or_default();
    if age > MAX_AGE {
        return Err(invalid("it is older than a day"));
    }
    let addresses = DeltaDiscoveryResponse::decode_length_delimited(&mut body)?;
    let policies = DeltaDiscoveryResponse::decode_length_delimited(&mut body)?;
    Ok((at, [policies, addresses]))
}

/// What no release can read.
fn unreadable() -> Any {
    Any {
        type_url: ResourceType::Authorization.url().to_owned(),
        value: Vec::new(),
    }
}
