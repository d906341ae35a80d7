//! Whether an engine answers.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The port without TLS.
pub const PLAIN_PORT: u16 = 2375;
/// The port with TLS.
pub const TLS_PORT: u16 = 2376;

/// Asks `/_ping` on the plain port and waits for the answer: the door keeps the question until the daemon is there.
///
/// # Errors
/// Nobody listens, or the answer is not 200.
pub async fn ping(address: Ipv4Addr) -> io::Result<()> {
    let mut stream = TcpStream::connect(SocketAddrV4::new(address, PLAIN_PORT)).await?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    let status = answer.split(|b| *b == b' ').nth(1);
    if answer.starts_with(b"HTTP/1.") && status == Some(b"200") {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer).chars().take(200).collect::<String>();
    Err(io::Error::other(if said.is_empty() { "it hung up".to_owned() } else { format!("it said {said:?}") }))
}
