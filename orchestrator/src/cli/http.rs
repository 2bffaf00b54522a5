//! One request to root's REST API over HTTP/1.1, and its answer.
//!
//! Not a general client: no redirects, no proxies, no reuse of connections. Passwords and tokens
//! travel in it, so beyond this machine it speaks TLS only. Whose certificate is a good one is
//! `tls`'s, who asks is `session`'s.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::body::Body;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::failure::{Failure, Fault};
use super::tls::Trust;

/// How long root may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a request may take in all; root itself gives up after 30 seconds.
const ANSWER: Duration = Duration::from_secs(40);
/// Bytes of the longest answer: instances of all services that root takes fit.
const MAX_ANSWER: usize = 256 << 20;
/// Root's port if an address has none, as `weald root --api` has it.
const PORT: u16 = 10000;

/// Where root is, and how it proves that it is root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    host: String,
    port: u16,
    /// None for plain HTTP.
    tls: Option<Trust>,
}

impl Address {
    /// Reads `http://host[:port]` or `https://host[:port]`; what a certificate is judged by counts
    /// for the latter only.
    pub(super) fn parse(text: &str, trust: Trust) -> anyhow::Result<Self> {
        let form = || {
            format!(
                "root {text:?}: write http://host:port or https://host:port, as in \
                 http://127.0.0.1:10000"
            )
        };
        let uri: Uri = text.parse().with_context(form)?;
        let tls = match uri.scheme_str() {
            Some("https") => Some(trust),
            Some("http") => None,
            Some(_) | None => bail!("{}", form()),
        };
        let plain = uri.path() == "/" && uri.query().is_none();
        let authority = uri.authority().filter(|it| !it.as_str().contains('@'));
        match authority {
            Some(authority) if plain => Ok(Self {
                host: authority.host().to_owned(),
                port: authority.port_u16().unwrap_or(PORT),
                tls,
            }),
            Some(_) | None => bail!("{}", form()),
        }
    }

    /// Whether what is said is encrypted.
    pub(super) const fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// The host without the brackets of an IPv6 address.
    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_secure() { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// A request.
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// With its query; what stands in it is made with [`segment`].
    pub(super) path: &'a str,
    /// Who asks.
    pub(super) token: Option<&'a str>,
    pub(super) body: Option<&'a Value>,
}

/// Asks root; an answer that is no success is a [`Failure::Refused`].
pub(super) async fn ask(root: &Address, call: Call<'_>) -> anyhow::Result<Vec<u8>> {
    let request = request(root, &call)?;
    let silent = |cause: String| Failure::Silent {
        root: root.to_string(),
        cause,
    };
    let stream = connect(root).await?;
    let answer = async {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(|it| silent(said(&it)))?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await;
        let response = response.map_err(|it| silent(said(&it)))?;
        let status = response.status();
        let body = axum::body::to_bytes(Body::new(response.into_body()), MAX_ANSWER).await;
        connection.abort();
        let body = body.map_err(|it| silent(format!("the answer was cut off: {it}")))?;
        Ok::<_, anyhow::Error>((status, body))
    };
    let (status, body) = timeout(ANSWER, answer)
        .await
        .map_err(|_| silent(format!("no answer within {} s", ANSWER.as_secs())))??;
    if status.is_success() {
        return Ok(body.to_vec());
    }
    Err(refusal(status, &body).into())
}

/// An error with what led to it, which hyper keeps out of its own text.
fn said(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn request(root: &Address, call: &Call<'_>) -> anyhow::Result<Request<Body>> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(call.path)
        .header(HOST, root.authority());
    if let Some(token) = call.token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = match call.body {
        Some(value) => {
            request = request.header(CONTENT_TYPE, "application/json");
            Body::from(serde_json::to_vec(value)?)
        }
        None => Body::empty(),
    };
    request.body(body).context("this cannot be asked for")
}

/// What one speaks HTTP over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(root: &Address) -> anyhow::Result<Box<dyn Stream>> {
    let config = root.tls.as_ref().map(Trust::config).transpose()?;
    let stream = dial(root).await?;
    let Some(config) = config else {
        return Ok(Box::new(stream));
    };
    let name = ServerName::try_from(root.bare_host().to_owned())
        .with_context(|| format!("{} is no name that a certificate can have", root.host))?;
    let shaken = timeout(CONNECT, TlsConnector::from(config).connect(name, stream)).await;
    let silent = |cause: String| Failure::Silent {
        root: root.to_string(),
        cause,
    };
    let late = |_| silent(format!("no TLS handshake within {} s", CONNECT.as_secs()));
    match shaken.map_err(late)? {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => {
            Err(distrust(root, &error).unwrap_or_else(|| silent(error.to_string()).into()))
        }
    }
}

/// What is wrong with a certificate; none if it is something else that went wrong.
fn distrust(root: &Address, error: &std::io::Error) -> Option<anyhow::Error> {
    let fault = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let is_judged = matches!(
        fault,
        rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)
    );
    is_judged.then(|| {
        anyhow!(
            "the certificate of {root} is not trusted: {fault}; if it is root's, log in with \
             `weald login --root {root}` and --ca FILE (its authority's certificate) or \
             --fingerprint SHA256"
        )
    })
}

async fn dial(root: &Address) -> anyhow::Result<TcpStream> {
    let silent = |cause: String| Failure::Silent {
        root: root.to_string(),
        cause,
    };
    let host = root.bare_host();
    let found = tokio::net::lookup_host((host, root.port)).await;
    let found: Vec<SocketAddr> = found.map_err(|it| silent(it.to_string()))?.collect();
    if !root.is_secure() && !found.iter().all(|it| it.ip().to_canonical().is_loopback()) {
        bail!(
            "root at {root} is not on this machine, and what is said would go unencrypted; start root with a certificate (`weald root --api-certificate`) and log in with --root https://{host}:{}, or forward its port, as with `ssh -L 10000:127.0.0.1:10000 {host}`, and log in with --root http://127.0.0.1:10000",
            root.port
        );
    }
    let stream = timeout(CONNECT, TcpStream::connect(found.as_slice())).await;
    let late = |_| silent(format!("no connection within {} s", CONNECT.as_secs()));
    let stream = stream.map_err(late)?;
    Ok(stream.map_err(|it| silent(it.to_string()))?)
}

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
    #[serde(default)]
    errors: Vec<Fault>,
}

/// What root says of what it refuses; something else that listens there may not say it in JSON.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let said = serde_json::from_slice::<ErrorBody>(body).ok();
    let (message, faults) = match said {
        Some(said) => (said.message, said.errors),
        None => (
            format!("what answers is no root of Weald: it says {status}; check --root"),
            Vec::new(),
        ),
    };
    Failure::Refused {
        status: status.as_u16(),
        message,
        faults,
    }
}

/// A text as one segment of a path: what is not plain is percent-encoded.
pub(super) fn segment(text: &str) -> String {
    let mut segment = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || b"-_~".contains(&byte)
            || (byte == b'.' && text.len() > 2)
        {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Address> {
        Address::parse(text, Trust::System)
    }

    #[test]
    fn addresses_are_read_or_refused() {
        for (text, shown) in [
            ("http://127.0.0.1:10000", "http://127.0.0.1:10000"),
            ("http://localhost/", "http://localhost:10000"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://root.example", "https://root.example:10000"),
            ("https://[2001:db8::1]:443", "https://[2001:db8::1]:443"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "127.0.0.1:10000",
            "ftp://localhost",
            "http://",
            "http://u:p@localhost",
            "http://localhost/api",
            "http://localhost?x",
            "http://a b",
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains("write http://host:port"), "{text}: {error}");
        }
    }

    #[test]
    fn segments_stay_one_segment() {
        assert_eq!(segment("shop.prod.web.prod.0"), "shop.prod.web.prod.0");
        assert_eq!(segment("a/b?c#d e%"), "a%2Fb%3Fc%23d%20e%25");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("ä"), "%C3%A4");
    }

    #[test]
    fn refusals_are_root_s_own_words() {
        let body =
            br#"{"code":422,"status":"x","message":"no","errors":[{"path":"$","message":"m"}]}"#;
        let Failure::Refused {
            status,
            message,
            faults,
        } = refusal(StatusCode::UNPROCESSABLE_ENTITY, body)
        else {
            panic!("a refusal");
        };
        assert_eq!((status, message.as_str(), faults.len()), (422, "no", 1));
        let other = refusal(StatusCode::BAD_GATEWAY, b"<html>");
        assert!(other.to_string().contains("no root of Weald"), "{other}");
    }

    #[tokio::test]
    async fn nothing_is_sent_in_clear_to_other_machines() {
        let root = parse("http://192.0.2.1:10000").unwrap();
        let error = dial(&root).await.unwrap_err().to_string();
        assert!(error.contains("unencrypted"), "{error}");
        assert!(error.contains("--root https://192.0.2.1:10000"), "{error}");
    }

    #[tokio::test]
    async fn who_does_not_answer_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let root = format!("http://{}", listener.local_addr().unwrap());
        let root = parse(&root).unwrap();
        let call = Call {
            method: Method::GET,
            path: "/",
            token: None,
            body: None,
        };
        // One that hangs up, then nobody.
        let (hung_up, _) = tokio::join!(ask(&root, call.clone()), async {
            drop(listener.accept().await.unwrap());
        });
        drop(listener);
        for error in [hung_up.unwrap_err(), ask(&root, call).await.unwrap_err()] {
            let silent = matches!(error.downcast_ref(), Some(Failure::Silent { .. }));
            assert!(silent, "{error:#}");
            assert!(error.to_string().contains(&root.to_string()), "{error:#}");
        }
    }
}
