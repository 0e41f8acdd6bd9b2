//! `fairlane listen`

use std::pin::pin;

use clap::Args;
use fairlane::{Headers, Heard, Missed};
use serde::Serialize;

use crate::{
    connect::Connect,
    failure::{Failure, chain},
    output::Output,
    shown::{self, Content},
    stop::stop,
};

/// Hears live what is delivered to topics, until Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fairlane listen 'page:*google*'")]
pub(crate) struct Listen {
    /// The topics, as a glob of Redis: * is any text, ? one byte, [a-z] one of these
    glob: String,
}

#[derive(Serialize)]
struct HeardLine {
    topic: String,
    headers: Headers,
    #[serde(flatten)]
    body: Content,
}

impl Listen {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let broker = connect.broker().await?;
        let mut listener = broker.listen(self.glob).await?;
        let mut stop = pin!(stop()?);
        output.note("listening; Ctrl-C ends it");
        loop {
            let heard = tokio::select! {
                () = &mut stop => return Ok(()),
                Some(heard) = listener.next() => heard,
                else => return Ok(()),
            };
            match heard {
                Ok(Heard { topic, headers, message, .. }) => {
                    let heard = HeardLine { topic, headers, body: Content::of(&message) };
                    let said = format!("{} {}", shown::name(&heard.topic), heard.body.shown());
                    output.done(&heard, said)?;
                }
                Err(missed) => warn(&missed),
            }
        }
    }
}

/// Says what was not heard, to programs too: it is no output.
fn warn(missed: &Missed) {
    use std::io::Write;
    let style = anstyle::AnsiColor::Yellow.on_default().bold();
    let said = shown::printable(chain(missed).as_bytes());
    let _ = writeln!(anstream::stderr(), "{style}missed{style:#}: {said}"); // Or nobody reads it.
}
