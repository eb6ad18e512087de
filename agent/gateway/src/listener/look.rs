//! Whether a waypoint looks into what goes to something that no route is for.

use std::time::Duration;

use agent_model::{AppProtocol, NamespacedHostname};

use crate::plan::Plan;
use crate::worker::Worker;

/// How long a client may be silent before it is one that waits for the server to speak.
const SPEAKS_FIRST: Duration = Duration::from_millis(300);
/// How long where that cannot be, or leads nowhere.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known before a client has said anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    /// What is spoken there, as services say.
    pub(super) said: AppProtocol,
    /// Routes are for its requests, if it is HTTP.
    pub(super) is_routed: bool,
    /// Policies ask about requests.
    pub(super) asks: bool,
    /// Nothing but HTTP passes.
    pub(super) is_refused: bool,
}

impl Before {
    /// How long to wait for a client's first bytes, to see whether they are HTTP; `None` when nobody
    /// looks.
    pub(super) fn patience(self) -> Option<Duration> {
        match self.said {
            AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => Some(PATIENCE),
            AppProtocol::Tcp | AppProtocol::Tls => None,
            AppProtocol::Unknown if self.is_routed => Some(PATIENCE),
            AppProtocol::Unknown if !self.asks => None,
            AppProtocol::Unknown if self.is_refused => Some(PATIENCE),
            AppProtocol::Unknown => Some(SPEAKS_FIRST),
        }
    }
}

/// True where traffic policies have something to do with requests that no route is for.
pub(super) fn is_treated(
    worker: &Worker,
    plan: &Plan,
    service: &NamespacedHostname,
    port: u16,
) -> bool {
    let tuning = worker.upstreams.tuning();
    !plan.treatment(service, port).is_nothing() || tuning.asks_for_requests(service, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_goes_before_what_is_asked() {
        let patience = |said, asks, is_refused| {
            let before = Before {
                said,
                is_routed: false,
                asks,
                is_refused,
            };
            before.patience()
        };
        for (asks, is_refused) in [(false, false), (true, false), (true, true)] {
            assert_eq!(
                patience(AppProtocol::Http2, asks, is_refused),
                Some(PATIENCE)
            );
            assert_eq!(patience(AppProtocol::Tls, asks, is_refused), None);
        }
        assert_eq!(patience(AppProtocol::Unknown, false, false), None);
        assert_eq!(patience(AppProtocol::Unknown, false, true), None);
        let asked = patience(AppProtocol::Unknown, true, false);
        assert_eq!(asked, Some(SPEAKS_FIRST), "the server may speak first");
        assert_eq!(patience(AppProtocol::Unknown, true, true), Some(PATIENCE));
        for (said, expected) in [
            (AppProtocol::Unknown, Some(PATIENCE)),
            (AppProtocol::Tcp, None),
        ] {
            let before = Before {
                said,
                is_routed: true,
                asks: false,
                is_refused: false,
            };
            assert_eq!(before.patience(), expected, "a route is for what is HTTP");
        }
    }
}
