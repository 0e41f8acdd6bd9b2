//! A clock that jumps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use fairlane::Broker;
use tokio::time::{Instant, sleep};

use crate::{
    check::Excused,
    load::{Load, SECOND, long},
    support::Server,
};

/// Clients measure with a steady clock, and scripts go by that of Redis: here all of them are told
/// another time.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_loses_nothing() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let ahead = Arc::new(AtomicU64::new(3_600_000));
    let load = Load::on({
        let ahead = ahead.clone();
        move || {
            let ahead = ahead.clone();
            let now = move || {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
                since.as_millis() as u64 + ahead.load(Ordering::SeqCst)
            };
            <Broker>::builder().redis(url.clone()).clock(now)
        }
    });
    let told = load.await.during(async |_| {
        let end = Instant::now() + long();
        while Instant::now() < end {
            // By less than a lease and by an hour, forth and back.
            for ms in [3_600_700, 3_600_000, 7_200_000, 3_600_000, 0] {
                ahead.store(ms, Ordering::SeqCst);
                sleep(SECOND / 5).await;
            }
        }
        // What was leased or delayed while the clock was ahead is due then.
        ahead.store(7_300_000, Ordering::SeqCst);
    });
    told.await.holds("clock jumps", &Excused { time: true, ..Excused::default() });
}
