use std::time::{Duration, Instant};

use agent_policy::jwt::{FetchFault, KeySetError, MAX_KEY_SET};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::address::Location;
use super::*;

const LOOPBACK: Limits = Limits {
    loopback: true,
    tls: None,
    patience: Duration::from_secs(5),
};

/// Serves these bytes to everybody who asks, and then nothing more; keeps the connection open where
/// it is to.
async fn server(answer: Vec<u8>, keep: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&answer).await;
            if keep {
                kept.push(stream);
            }
        }
    });
    format!("http://{address}/keys")
}

async fn fetched(answer: &str) -> Result<String, FetchFault> {
    let address = server(answer.as_bytes().to_vec(), false).await;
    let text = fetch(&address, &LOOPBACK).await?;
    Ok(String::from_utf8(text).unwrap())
}

#[test]
fn addresses_are_absolute_and_without_credentials() {
    let parsed = |address: &str| Location::parse(address).ok();
    let location = parsed("https://issuer.example/.well-known/jwks.json?v=1").unwrap();
    assert_eq!((location.port, location.is_secure), (443, true));
    assert_eq!(location.target, "/.well-known/jwks.json?v=1");
    assert_eq!(parsed("http://[::1]:8080").unwrap().host, "::1");
    for bad in [
        "issuer.example/keys",
        "/keys",
        "ftp://issuer.example/keys",
        "file:///etc/passwd",
        "http://user:password@issuer.example/",
        "http://",
        "https://a b/",
        "",
    ] {
        assert_eq!(parsed(bad), None, "{bad}");
    }
}

#[test]
fn redirects_never_leave_tls() {
    let secure = Location::parse("https://issuer.example/a").unwrap();
    assert_eq!(secure.redirected("/b").unwrap().target, "/b");
    assert_eq!(
        secure.redirected("https://x.example/").unwrap().host,
        "x.example"
    );
    assert!(secure.redirected("http://issuer.example/a").is_err());
    assert!(secure.redirected("//x.example/").is_err());
    let plain = Location::parse("http://issuer.example/a").unwrap();
    assert!(plain.redirected("https://issuer.example/a").is_ok());
}

#[tokio::test]
async fn f_82_what_answers_is_bounded_and_plain() {
    let good = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(fetched(good).await.unwrap(), "{}");
    let to_the_end = "HTTP/1.1 200 OK\r\n\r\n{\"keys\":[]}";
    assert_eq!(fetched(to_the_end).await.unwrap(), "{\"keys\":[]}");
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    assert_eq!(fetched(chunked).await.unwrap(), "{}");

    let status = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(fetched(status).await, Err(FetchFault::Status(404)));
    let zipped = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}";
    assert!(matches!(
        fetched(zipped).await,
        Err(FetchFault::Transport(_))
    ));
    let broken = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}";
    assert!(matches!(
        fetched(broken).await,
        Err(FetchFault::Transport(_))
    ));

    let too_long = Err(FetchFault::KeySet(KeySetError::TooLong));
    let said = "HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n";
    assert_eq!(fetched(said).await, too_long);
    let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(MAX_KEY_SET + 1));
    assert_eq!(fetched(&long).await, too_long);
}

#[tokio::test]
async fn f_82_every_hop_is_checked_after_its_name_is_resolved() {
    let strict = Limits::default();
    let address = server(b"HTTP/1.1 200 OK\r\n\r\n{}".to_vec(), false).await;
    let refused = fetch(&address, &strict).await;
    assert_eq!(
        refused,
        Err(FetchFault::Address("127.0.0.1".parse().unwrap()))
    );
    let by_name = address.replace("127.0.0.1", "localhost");
    assert!(matches!(
        fetch(&by_name, &strict).await,
        Err(FetchFault::Address(_))
    ));

    let redirect = |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\n\r\n");
    for (to, ip) in [
        (
            "http://169.254.169.254/latest/meta-data/",
            "169.254.169.254",
        ),
        ("http://[fe80::1]/", "fe80::1"),
        ("http://[::ffff:169.254.169.254]/", "::ffff:169.254.169.254"),
    ] {
        let refused = fetched(&redirect(to)).await;
        assert_eq!(
            refused,
            Err(FetchFault::Address(ip.parse().unwrap())),
            "{to}"
        );
    }
    assert_eq!(fetched(&redirect(&address)).await.unwrap(), "{}");
    let looped = fetched(&redirect("/again")).await;
    assert!(
        matches!(looped, Err(FetchFault::Transport(_))),
        "{looped:?}"
    );
}

#[tokio::test]
async fn f_82_a_server_that_says_nothing_is_given_up() {
    let address = server(b"HTTP/1.1 200 OK\r\n".to_vec(), true).await;
    let limits = Limits {
        patience: Duration::from_millis(50),
        ..LOOPBACK
    };
    assert_eq!(fetch(&address, &limits).await, Err(FetchFault::Timeout));
    assert_eq!(Limits::default().patience, Duration::from_secs(5));
}

#[tokio::test]
async fn the_last_good_keys_stay_while_no_others_come() {
    let keys = Keys::new(Settings {
        refresh: Duration::from_millis(20),
        back_off: Duration::from_millis(20),
        ..Settings::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Arc<str> = format!("http://{}/", listener.local_addr().unwrap()).into();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"keys\":[]}")
            .await;
        // Nobody listens from here on.
    });
    let (_drain, draining) = agent_net::drain::channel();
    tokio::spawn(run(keys.clone(), LOOPBACK, draining));
    assert_eq!(keys.want([&address]), 0);
    let began = Instant::now();
    while keys.status()[0].failures < 2 {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            keys.status()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(keys.good().contains_key(&address));
    let judged = keys.good();
    let missed = keys.missed(&address, &judged);
    assert!(missed.is_none(), "a back-off is kept to");
    let missed = keys.missed(&address, &Remote::default());
    assert!(missed.is_some(), "keys that came after the verdict count");
    keys.want([]);
    assert!(keys.good().is_empty(), "nobody wants them any more");
}
