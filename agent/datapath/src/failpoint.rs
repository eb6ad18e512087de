//! Places between the steps of an enrolment at which a test may end the agent or make it fail.
//! Without the feature `failpoints`, as in every shipped program, they are nothing.

use crate::error::DatapathError;

#[cfg(feature = "failpoints")]
mod script {
    use std::sync::{Mutex, PoisonError};

    type Script = Box<dyn FnMut(&'static str) -> bool + Send>;

    static SCRIPT: Mutex<Option<Script>> = Mutex::new(None);

    /// Has `script` called with the name of every place that is reached, on whatever thread
    /// reaches it. It may abort the process; where it says true the step fails.
    pub fn set(script: impl FnMut(&'static str) -> bool + Send + 'static) {
        *SCRIPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(script));
    }

    /// Has nothing called any more.
    pub fn clear() {
        *SCRIPT.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn is_to_fail(place: &'static str) -> bool {
        let mut script = SCRIPT.lock().unwrap_or_else(PoisonError::into_inner);
        script.as_mut().is_some_and(|script| script(place))
    }
}

#[cfg(feature = "failpoints")]
pub use script::{clear, set};

/// The enrolment has come to `place`.
#[cfg(feature = "failpoints")]
pub(crate) fn reached(place: &'static str) -> Result<(), DatapathError> {
    if script::is_to_fail(place) {
        return Err(DatapathError::kernel(place)(std::io::Error::other(
            "told to fail",
        )));
    }
    Ok(())
}

/// The enrolment has come to `place`.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn reached(_place: &'static str) -> Result<(), DatapathError> {
    Ok(())
}
