//! The part of etcd's gRPC interface that a put needs, over one HTTP/2 connection, with messages encoded by
//! hand.
//!
//! etcd's own clients use gRPC. Its JSON gateway needs a second request inside etcd, which would make etcd
//! look slower.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// One connection, shared by many clients.
#[derive(Clone)]
pub(super) struct Channel {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Channel {
    /// Connects to `HOST:PORT`.
    pub(super) async fn open(addr: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // The task ends with the last sender or with the server. An error is reported by the requests.
        tokio::spawn(async move { connection.await.ok() });
        Ok(Self { sender, authority: addr.to_owned() })
    }

    /// Writes one key. Returns when etcd reports that it is durable.
    pub(super) async fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.call("/etcdserverpb.KV/Put", &put_request(key, value)).await
    }

    /// Writes several keys in one transaction.
    pub(super) async fn put_all(&mut self, pairs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
        let mut message = BytesMut::new();
        for (key, value) in pairs {
            let mut operation = BytesMut::new();
            field(&mut operation, 2, &put_request(key, value));
            field(&mut message, 2, &operation);
        }
        self.call("/etcdserverpb.KV/Txn", &message).await
    }

    async fn call(&mut self, method: &str, message: &[u8]) -> io::Result<()> {
        let mut body = BytesMut::with_capacity(message.len() + 5);
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).map_err(io::Error::other)?);
        body.extend_from_slice(message);
        let request = hyper::Request::post(format!("http://{}{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))
            .map_err(io::Error::other)?;
        self.sender.ready().await.map_err(io::Error::other)?;
        let response = self.sender.send_request(request).await.map_err(io::Error::other)?;
        // An error without a message has its status in the headers.
        let early = status_of(response.headers());
        let collected = response.into_body().collect().await.map_err(io::Error::other)?;
        match early.or_else(|| collected.trailers().and_then(status_of)) {
            Some((0, _)) => Ok(()),
            Some((code, message)) => {
                Err(io::Error::other(format!("gRPC status {code}: {message}")))
            }
            None => Err(io::Error::other("the answer has no gRPC status")),
        }
    }
}

fn status_of(headers: &hyper::HeaderMap) -> Option<(u32, String)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Some((text("grpc-status")?.parse().ok()?, text("grpc-message").unwrap_or_default().to_owned()))
}

fn put_request(key: &[u8], value: &[u8]) -> BytesMut {
    let mut message = BytesMut::with_capacity(key.len() + value.len() + 8);
    field(&mut message, 1, key);
    field(&mut message, 2, value);
    message
}

/// A length-delimited protobuf field.
fn field(out: &mut BytesMut, number: u8, value: &[u8]) {
    out.put_u8(number << 3 | 2);
    let mut len = value.len();
    while len >= 0x80 {
        out.put_u8(u8::try_from(len & 0x7f).unwrap_or(0) | 0x80);
        len >>= 7;
    }
    out.put_u8(u8::try_from(len).unwrap_or(0));
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_protobuf() {
        assert_eq!(&put_request(b"a", b"bc")[..], b"\x0a\x01a\x12\x02bc");
        let mut long = BytesMut::new();
        field(&mut long, 2, &[7; 300]);
        assert_eq!(&long[..3], b"\x12\xac\x02");
        assert_eq!(long.len(), 303);
    }
}
