//! What is spoken on a port, as its `appProtocol` says, else its name: the words of Istio and of
//! Kubernetes.

use agent_model::AppProtocol;

/// Ports where servers speak first (SMTP, MySQL), or that never are HTTP (DNS, MongoDB): nobody has
/// to say so.
const NEVER_HTTP: [u16; 4] = [25, 53, 3306, 27017];

/// What is spoken on a port of that number.
pub(super) fn spoken(said: &str, name: &str, number: u16) -> AppProtocol {
    let of_kubernetes = match said {
        "kubernetes.io/h2c" => Some(AppProtocol::Http2),
        "kubernetes.io/ws" => Some(AppProtocol::Http1),
        "kubernetes.io/wss" => Some(AppProtocol::Tls),
        _ => None,
    };
    let said = match said {
        "" => name,
        said => said,
    };
    of_kubernetes
        .or_else(|| by_word(said))
        .unwrap_or(match NEVER_HTTP.contains(&number) {
            true => AppProtocol::Tcp,
            false => AppProtocol::Unknown,
        })
}

/// The word is what comes before a dash: `http-metrics`. `grpc-web` is gRPC in HTTP of any version.
fn by_word(said: &str) -> Option<AppProtocol> {
    let said = said.to_ascii_lowercase();
    if said == "grpc-web" || said.starts_with("grpc-web-") {
        return Some(AppProtocol::Http1);
    }
    match said.split('-').next().unwrap_or_default() {
        "http" | "http_proxy" => Some(AppProtocol::Http1),
        "http2" | "h2c" => Some(AppProtocol::Http2),
        "grpc" => Some(AppProtocol::Grpc),
        "https" | "tls" => Some(AppProtocol::Tls),
        "tcp" | "mongo" | "mysql" | "redis" | "hbone" => Some(AppProtocol::Tcp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_app_protocols_tell() {
        for (said, name, number, expected) in [
            ("", "", 80, AppProtocol::Unknown),
            ("", "web", 80, AppProtocol::Unknown),
            ("", "http", 80, AppProtocol::Http1),
            ("", "HTTP-metrics", 80, AppProtocol::Http1),
            ("", "httpx", 80, AppProtocol::Unknown),
            ("", "grpc-web-a", 80, AppProtocol::Http1),
            ("", "grpc-a", 80, AppProtocol::Grpc),
            ("", "https", 443, AppProtocol::Tls),
            ("", "redis", 6379, AppProtocol::Tcp),
            // What is said goes before what it is called.
            ("tcp", "http", 80, AppProtocol::Tcp),
            ("example.org/own", "http", 80, AppProtocol::Unknown),
            ("kubernetes.io/h2c", "", 80, AppProtocol::Http2),
            ("kubernetes.io/wss", "http", 443, AppProtocol::Tls),
            ("", "db", 3306, AppProtocol::Tcp),
            ("http", "", 3306, AppProtocol::Http1),
        ] {
            assert_eq!(spoken(said, name, number), expected, "{said} {name}");
        }
    }
}
