//! The marker of a queue: there while something can be served, and taken by one who waits.

use std::time::Duration;

use redis::{RedisError, Value};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use crate::{
    credentials::Known,
    error::Result,
    link::{Link, Meaning, Pause, send},
};

/// Waits for the marker, until then. Returns whether it was taken, and the connection if it is
/// still good. Where it was away meanwhile it is time to ask: something may have been missed.
pub(crate) async fn marker(
    link: &Link,
    kept: Option<Known>,
    key: &str,
    until: Instant,
    pause: &mut Pause,
    away: impl Fn(bool),
) -> Result<(bool, Option<Known>)> {
    let mut connection = kept;
    let mut lost = false;
    loop {
        let mut live = match connection.take() {
            Some(live) => live,
            None => match timeout_at(until, link.connect(|_| Ok::<_, RedisError>(()))).await {
                Err(_) => return Ok((false, None)),
                Ok(Ok(live)) => {
                    away(false);
                    if lost {
                        return Ok((false, Some(live)));
                    }
                    live
                }
                Ok(Err(error)) => {
                    let cause = link.unreachable(error)?;
                    debug!(target: "fairlane", key, %cause, "waiting for Redis to come back");
                    lost = true;
                    away(true);
                    if !pause.before(until).await {
                        return Ok((false, None));
                    }
                    continue;
                }
            },
        };
        // One that blocks can be told nothing: it is before that.
        let renewed = live.renew(link).await;
        // Redis takes 0 for ever.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut command = redis::cmd("BZPOPMIN");
        command.arg(key).arg(left.as_secs_f64());
        let blocked = async {
            renewed?;
            send(&mut live.connection, &command).await
        };
        match timeout(left + link.settings.patience, blocked).await {
            Ok(Ok(value)) => {
                away(false);
                *pause = Pause::default();
                return Ok((value != Value::Nil, Some(live)));
            }
            Ok(Err(error)) if link.meant(&error) == Meaning::Refused => {
                return Err(link.refused(error));
            }
            Ok(Err(_)) => {
                link.misleads();
                lost = true;
            }
            // A silent link does not break by itself.
            Err(_) => {
                away(true);
                return Ok((false, None));
            }
        }
        away(true);
        if !pause.before(until).await {
            return Ok((false, None));
        }
    }
}
