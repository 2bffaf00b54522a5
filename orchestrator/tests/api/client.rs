//! A client that sends just what a test wants, right or wrong.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON, of an answer with this status.
    #[track_caller]
    pub(crate) fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(
            self.head.contains("content-type: application/json"),
            "{}",
            self.head
        );
        serde_json::from_str(&self.body).unwrap()
    }

    /// The message of an error with this status, whose body has the form of all errors.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16) -> String {
        let body = self.json(status);
        assert_eq!(body["code"], status);
        assert!(!body["status"].as_str().unwrap().is_empty());
        let message = body["message"].as_str().unwrap();
        assert!(!message.is_empty());
        message.to_owned()
    }
}

/// Sends bytes on a connection of their own and reads until it is closed.
pub(crate) async fn send(address: SocketAddr, bytes: &[u8]) -> Answer {
    exchange(TcpStream::connect(address).await.unwrap(), bytes).await
}

/// As [`send`], on a stream that is there.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    bytes: &[u8],
) -> Answer {
    // Whoever refuses a body may close before it has come.
    let _ = stream.write_all(bytes).await;
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    let text = String::from_utf8(read).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("no status in {text:?}")),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// A request as bytes.
pub(crate) fn request(
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    let mut named: Vec<_> = headers.to_vec();
    if !named.iter().any(|(name, _)| *name == "Host") {
        named.push(("Host", "localhost"));
    }
    let length = body.map(|it| it.len().to_string());
    if let Some(length) = &length {
        named.push(("Content-Length", length));
        if !named.iter().any(|(name, _)| *name == "Content-Type") {
            named.push(("Content-Type", "application/json"));
        }
    }
    for (name, value) in named {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    text += body.unwrap_or_default();
    text.into_bytes()
}
