//! `fairlane redis`

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use tokio::{io::AsyncReadExt, net::UnixStream, time::timeout};

use crate::{
    connect::{Connect, failed},
    failure::Failure,
    output::Output,
    stop::stop,
};

/// How long the server may take to end, so that nothing of it is left behind.
const ENDING: Duration = Duration::from_secs(10);

/// Runs a private Redis server, and prints its URL; ends with Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fairlane redis ./data &
  export FAIRLANE_REDIS=unix://$PWD/data/redis.sock

The server is the program that FAIRLANE_SERVER names, otherwise redis-server or valkey-server. Only this
user can reach it. It writes every change to the directory, and takes it up again when it is started there.")]
pub(crate) struct Redis {
    /// Where its data are kept; made where there is none
    dir: PathBuf,
}

#[derive(Serialize)]
struct Running {
    url: String,
}

impl Redis {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let mut stop = pin!(stop()?);
        let broker = tokio::select! {
            () = &mut stop => return Ok(()),
            broker = connect.named().embedded(&self.dir).connect() => broker.map_err(failed)?,
        };
        let cannot =
            |error| Failure::refused(format!("{} cannot be reached: {error}", self.dir.display()));
        let socket = self.dir.canonicalize().map_err(cannot)?.join("redis.sock");
        // It ends when the server does, however that ends.
        let mut life = UnixStream::connect(&socket).await.map_err(cannot)?;
        let url = url(&socket);
        output.done(&Running { url: url.clone() }, &url)?;
        loop {
            tokio::select! {
                () = &mut stop => {
                    drop(broker);
                    let _ = timeout(ENDING, life.read_u8()).await;
                    return Ok(());
                }
                _ = life.read_u8() => {}
            }
            // Somebody may have closed this connection alone.
            life = UnixStream::connect(&socket).await.map_err(|_| {
                let log = self.dir.join("fairlane.log");
                Failure::refused(format!("the server has died; its log is {}", log.display()))
            })?;
        }
    }
}

/// The URL of a socket; what would mean something else in a URL is written as its code.
fn url(socket: &Path) -> String {
    let mut url = String::from("unix://");
    for byte in socket.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'_' | b'-' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                url.push(char::from(*byte));
            }
            byte => url += &format!("%{byte:02X}"),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_its_way_through_a_url() {
        assert_eq!(
            url(Path::new("/a b/c?d#e%/redis.sock")),
            "unix:///a%20b/c%3Fd%23e%25/redis.sock"
        );
    }
}
