//! A minimal HTTP/1.1 client for load, with one connection.
//!
//! It is minimal because it shares two cores with the servers that it measures. Requests are prepared in
//! advance. Of an answer, only the status, the length and the body are read.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Maximum length of an answer with its head, in bytes.
const ANSWER_LEN_MAX: usize = 16 * 1024 * 1024;

/// One keep-alive connection.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    used: usize,
    head_len: usize,
}

/// The bytes of a request without a body.
pub(super) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes()
}

/// The bytes of a request with an empty body.
pub(super) fn without_body(method: &str, path: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

/// The bytes of a request with a JSON body.
pub(super) fn with_json(method: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Connection {
    /// Connects to `HOST:PORT`.
    pub(super) async fn open(addr: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 4_096], filled: 0, used: 0, head_len: 0 })
    }

    /// Sends a request and returns the status and body of the answer. After an error the connection cannot be
    /// used.
    pub(super) async fn call(&mut self, request: &[u8]) -> io::Result<(u16, &[u8])> {
        // The rest of the last answer is dropped, because requests are not pipelined.
        self.buffer.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        self.stream.write_all(request).await?;
        let head_len = self.read_head().await?;
        let head = &self.buffer[..head_len];
        let status = head
            .get(9..12)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| malformed("no status"))?;
        let body_len = if status == 204 || status == 304 { 0 } else { content_length(head)? };
        let end = head_len + body_len;
        if end > ANSWER_LEN_MAX {
            return Err(malformed("the answer is too long"));
        }
        while self.filled < end {
            self.fill().await?;
        }
        self.used = end;
        self.head_len = head_len;
        Ok((status, &self.buffer[head_len..end]))
    }

    /// A header of the last answer.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.buffer[..self.head_len], name)
    }

    async fn read_head(&mut self) -> io::Result<usize> {
        let mut from = 0;
        loop {
            let found =
                self.buffer[from..self.filled].windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(at) = found {
                return Ok(from + at + 4);
            }
            from = self.filled.saturating_sub(3);
            if self.filled > 64 * 1024 {
                return Err(malformed("the head is too long"));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => {
                self.filled += len;
                Ok(())
            }
        }
    }
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn content_length(head: &[u8]) -> io::Result<usize> {
    let text = header(head, "content-length").ok_or_else(|| malformed("no content-length"))?;
    text.parse().map_err(|_| malformed("a bad content-length"))
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (own, rest) = line.split_at_checked(name.len())?;
        let value = rest.strip_prefix(b":")?;
        let is_wanted = own.eq_ignore_ascii_case(name.as_bytes());
        is_wanted.then(|| std::str::from_utf8(value).unwrap_or_default().trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn answers_are_read_whole_however_they_are_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            for answer in [
                "HTTP/1.1 302 Found\r\nContent-Length: 5\r\n\r\nhello",
                "HTTP/1.1 204 No Content\r\n\r\n",
            ] {
                let _ = stream.read(&mut request).await.unwrap();
                for part in answer.as_bytes().chunks(7) {
                    stream.write_all(part).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut connection = Connection::open(&addr).await.unwrap();
        let (status, body) = connection.call(&get("/")).await.unwrap();
        assert_eq!((status, body), (302, &b"hello"[..]));
        assert_eq!(connection.header("content-length"), Some("5"));
        assert_eq!(connection.call(&get("/")).await.unwrap().0, 204);
        server.await.unwrap();
        assert!(connection.call(&get("/")).await.is_err());
    }
}
