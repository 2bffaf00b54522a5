//! As much HTTP/1.1 (RFC 9112) as a UPnP gateway is asked with: one request on a connection, one
//! answer, both whole in memory. Sockets are the shell's.

use std::net::Ipv4Addr;

/// Bytes of the longest answer that is read: descriptions have some KiB.
pub const MAX_RESPONSE: usize = 64 << 10;

/// Where on a gateway something is: it has no host, so that nobody else is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The TCP port.
    pub port: u16,
    /// The path, from its slash on.
    pub path: String,
}

impl Place {
    /// Reads a URL that must name `gateway` itself, by its address.
    #[must_use]
    pub fn on(gateway: Ipv4Addr, url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_at_checked("http://".len())?;
        if !scheme.eq_ignore_ascii_case("http://") {
            return None;
        }
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at_checked(at)?,
            None => (rest, "/"),
        };
        let (ip, port) = match host.split_once(':') {
            Some((ip, port)) => (ip, port.parse().ok()?),
            None => (host, 80),
        };
        let is_gateway = ip.parse() == Ok(gateway);
        (is_gateway && port != 0 && is_path(path)).then(|| Self {
            port,
            path: path.to_owned(),
        })
    }

    /// Reads a reference beside this place: another place on the gateway, or a path.
    #[must_use]
    pub fn beside(&self, gateway: Ipv4Addr, reference: &str) -> Option<Self> {
        if reference.contains("://") {
            return Self::on(gateway, reference);
        }
        let path = if reference.starts_with('/') {
            reference.to_owned()
        } else {
            let folder = self.path.rfind('/').and_then(|at| self.path.get(..=at));
            format!("{}{reference}", folder.unwrap_or("/"))
        };
        is_path(&path).then_some(Self {
            port: self.port,
            path,
        })
    }
}

/// Whether a path can stand in a request: nothing in it ends the line.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Asks for what is at a place.
#[must_use]
pub fn get(gateway: Ipv4Addr, place: &Place) -> Vec<u8> {
    let Place { port, path } = place;
    format!("GET {path} HTTP/1.1\r\nHost: {gateway}:{port}\r\nConnection: close\r\n\r\n").into()
}

/// Calls an action of a service (UPnP Device Architecture, section 3.1).
#[must_use]
pub fn post(gateway: Ipv4Addr, place: &Place, action: &str, body: &str) -> Vec<u8> {
    let Place { port, path } = place;
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {gateway}:{port}\r\nConnection: close\r\n\
         Content-Type: text/xml; charset=\"utf-8\"\r\nSOAPAction: \"{action}\"\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into()
}

/// A gateway's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// What it carries, as text; what is no text is replaced.
    pub body: String,
}

/// How much of an answer has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// There is more to come; at the end of the connection this is all.
    More(Option<Response>),
    /// It is complete.
    Done(Response),
    /// It is no answer.
    Wrong,
}

/// Reads what has come of an answer so far.
#[must_use]
pub fn read(bytes: &[u8]) -> Progress {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Progress::More(None);
    };
    let (head, body) = bytes.split_at(end);
    let body = body.get(4..).unwrap_or_default();
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let Some(status) = lines.next().and_then(status_of) else {
        return Progress::Wrong;
    };
    let mut length = None;
    let mut chunked = false;
    for line in lines {
        let Some((name, value)) = header(line) else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse::<usize>().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        }
    }
    let response = |body: &[u8]| Response {
        status,
        body: String::from_utf8_lossy(body).into_owned(),
    };
    if chunked {
        return match unchunk(body) {
            Some(body) => Progress::Done(response(&body)),
            None => Progress::More(None),
        };
    }
    match length {
        Some(length) => match body.get(..length) {
            Some(body) => Progress::Done(response(body)),
            None => Progress::More(None),
        },
        None => Progress::More(Some(response(body))),
    }
}

/// A line of a head, cut at its colon.
#[must_use]
pub fn header(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim(), value.trim()))
}

/// The status in the first line of an answer.
#[must_use]
pub fn status_of(line: &str) -> Option<u16> {
    let mut words = line.split(' ');
    let is_http = words.next()?.starts_with("HTTP/1.");
    is_http.then(|| words.next()?.parse().ok())?
}

/// Puts chunks together (RFC 9112, section 7.1); none if the last one has not come.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(rest.get(..end)?).ok()?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = rest.get(end + 2..)?;
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn place(port: u16, path: &str) -> Option<Place> {
        let path = path.to_owned();
        Some(Place { port, path })
    }

    #[test]
    fn only_the_gateway_itself_is_a_place() {
        let on = |url| Place::on(GATEWAY, url);
        assert_eq!(on("http://192.168.1.1:5000/d.xml"), place(5000, "/d.xml"));
        assert_eq!(on("HTTP://192.168.1.1"), place(80, "/"));
        for elsewhere in [
            "http://192.168.1.2:5000/d.xml",
            "http://192.168.1.1.example:5000/d.xml",
            "http://user@192.168.1.1/d.xml",
            "https://192.168.1.1/d.xml",
            "http://192.168.1.1:0/d.xml",
            "http://192.168.1.1:99999/d.xml",
            "http://192.168.1.1/a b",
            "http://192.168.1.1/a\r\nHost: victim",
            "http://[::ffff:192.168.1.1]/",
            "http:/",
            "",
        ] {
            assert_eq!(on(elsewhere), None, "{elsewhere:?}");
        }
        let at = on("http://192.168.1.1:5000/igd/d.xml").unwrap();
        assert_eq!(at.beside(GATEWAY, "/ctl"), place(5000, "/ctl"));
        assert_eq!(at.beside(GATEWAY, "ctl"), place(5000, "/igd/ctl"));
        let absolute = "http://192.168.1.1:6000/ctl";
        assert_eq!(at.beside(GATEWAY, absolute), place(6000, "/ctl"));
        assert_eq!(at.beside(GATEWAY, "http://192.0.2.1/ctl"), None);
    }

    #[test]
    fn an_answer_is_read_as_far_as_it_has_come() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyrest";
        for end in 0..whole.len() - "rest".len() {
            assert_eq!(
                read(&whole.as_bytes()[..end]),
                Progress::More(None),
                "{end}"
            );
        }
        let body = |status, body: &str| Response {
            status,
            body: body.to_owned(),
        };
        assert_eq!(read(whole.as_bytes()), Progress::Done(body(200, "body")));
        let open = read(b"HTTP/1.0 500 No\r\nX: y\r\n\r\nopen");
        assert_eq!(open, Progress::More(Some(body(500, "open"))));
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        assert_eq!(read(chunks.as_bytes()), Progress::Done(body(200, "abcde")));
        let cut = &chunks.as_bytes()[..chunks.len() - 8];
        assert_eq!(read(cut), Progress::More(None));
        assert_eq!(read(b"SIP/2.0 200 OK\r\n\r\n"), Progress::Wrong);
        let endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
        assert_eq!(read(endless), Progress::More(None));
    }
}
