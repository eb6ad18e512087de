//! Three answers, so that what is not known is nobody's hole.

use agent_model::Action;

/// What a field says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    Unknown,
}

impl Answer {
    pub(super) fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    /// The answer for several values of one thing, any of which may be the one that counts: they
    /// have to agree. No value at all is a no.
    pub(super) fn agreed(answers: impl Iterator<Item = bool>) -> Self {
        let mut agreed = None;
        for holds in answers {
            match agreed {
                Some(before) if before != holds => return Self::Unknown,
                _ => agreed = Some(holds),
            }
        }
        Self::of(agreed == Some(true))
    }

    pub(super) fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }

    pub(super) fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::No => Self::No,
            Self::Yes => other(),
            Self::Unknown => match other() {
                Self::No => Self::No,
                _ => Self::Unknown,
            },
        }
    }

    /// Unknown goes to the side that refuses.
    pub(super) fn settle(self, action: Action) -> bool {
        match self {
            Self::Yes => true,
            Self::No => false,
            Self::Unknown => action == Action::Deny,
        }
    }
}
