//! The fixture's own paths, for tests that run it as a program: `POST /fixture/WORD`.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::failure::Failure;
use super::faults::Refusal;
use super::handle::{Answer, Request};
use super::load;
use super::shared::Shared;

/// Does what the words say. All but `counts` are POST requests:
///
/// | path | parameters |
/// |---|---|
/// | `put` | body: manifests (YAML or JSON), taken as they are, status too |
/// | `remove` | body: manifests; removes what they name at once |
/// | `compact`, `bookmark`, `drop-watches`, `silence`, `clear` | |
/// | `stall`, `gone-as-status` | `on=true` or `false` |
/// | `refuse` | `code`, `times`, perhaps `verb`, `resource` |
/// | `latency`, `advance` | `ms` |
/// | `pod-token` | `namespace`, `pod`, `audience`, `seconds` |
/// | `counts` (GET) | |
pub(super) fn control(
    shared: &Arc<Shared>,
    words: &[String],
    request: &Request,
) -> Result<Answer, Failure> {
    let word = words.first().map(String::as_str).unwrap_or_default();
    let query = &request.query;
    if request.method == Method::GET && word == "counts" {
        return Ok(done(&json!(shared.faults().counts())));
    }
    if request.method != Method::POST {
        return Err(Failure::no_such_path());
    }
    let number = |name: &str| {
        query
            .number(name)
            .ok_or_else(|| Failure::bad_request(format!("{name}: a number is missing")))
    };
    let word_of = |name: &str| {
        query
            .get(name)
            .ok_or_else(|| Failure::bad_request(format!("{name} is missing")))
    };
    match word {
        "put" => {
            for manifest in load::documents(&text(request)?)? {
                load::put(&mut shared.world(), manifest)?;
            }
        }
        "remove" => {
            for manifest in load::documents(&text(request)?)? {
                load::remove(&mut shared.world(), &manifest)?;
            }
        }
        "compact" => shared.world().store.compact(),
        "bookmark" => shared.signals.bookmark.send_modify(|count| *count += 1),
        "drop-watches" => shared.signals.drop_watches.send_modify(|count| *count += 1),
        "silence" => {
            shared.signals.silenced.send_replace(true);
        }
        "stall" => {
            shared.signals.stalled.send_replace(query.flag("on"));
        }
        "gone-as-status" => shared.world().gone_as_status = query.flag("on"),
        "clear" => {
            shared.faults().clear();
            shared.signals.stalled.send_replace(false);
            shared.signals.silenced.send_replace(false);
            shared.signals.hurry.send_modify(|count| *count += 1);
        }
        "refuse" => {
            let code = u16::try_from(number("code")?)
                .map_err(|_| Failure::bad_request("code: not an HTTP status"))?;
            let mut refusal = Refusal::new(code, number("times")?);
            if let Some(verb) = query.get("verb") {
                refusal = refusal.verb(verb);
            }
            if let Some(resource) = query.get("resource") {
                refusal = refusal.resource(resource);
            }
            shared.faults().refuse(refusal);
        }
        "latency" => {
            shared.faults().latency = Duration::from_millis(number("ms")?);
            shared.signals.hurry.send_modify(|count| *count += 1);
        }
        "advance" => shared.world().ahead += Duration::from_millis(number("ms")?),
        "pod-token" => {
            let life = Duration::from_secs(number("seconds")?);
            let token = load::pod_token(
                &mut shared.world(),
                word_of("namespace")?,
                word_of("pod")?,
                word_of("audience")?,
                life,
            )?;
            return Ok(done(&json!({"token": token})));
        }
        _ => return Err(Failure::no_such_path()),
    }
    Ok(done(&json!({})))
}

fn done(value: &Value) -> Answer {
    Answer::Json(200, value.to_string())
}

fn text(request: &Request) -> Result<String, Failure> {
    String::from_utf8(request.body.clone())
        .map_err(|_| Failure::bad_request("the body is not UTF-8"))
}
