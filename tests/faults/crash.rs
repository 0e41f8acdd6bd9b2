//! A Redis that is killed and started again.

use std::fs::File;

use tokio::time::{Instant, sleep};

use crate::{
    check::Excused,
    load::{Load, SECOND, long},
    support::{Server, appended, tear, until},
    work::LEASED,
};

/// Every other kill is in the midst of writing a script. Without what `recover` does, most servers would carry
/// out the part that was written, two starts later.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_loses_nothing_that_it_has_synced() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let url = server.url();
    let load = Load::on(move || <fairlane::Broker>::builder().redis(url.clone())).await;
    let told = load.during(async |_| {
        let end = Instant::now() + long();
        for kill in 0.. {
            if Instant::now() > end {
                break;
            }
            sleep(SECOND / 2).await;
            server.kill();
            if kill % 2 == 0 {
                tear(server.dir(), (0.618 * f64::from(kill + 1)).fract());
            }
            sleep(SECOND / 5).await;
            server.recover().await;
        }
    });
    told.await.holds("kill -9 of Redis, appendfsync always", &Excused::default());
}

/// A kill leaves to the system what Redis has written and not synced; here it is gone, as when the
/// machine loses its power.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_syncs_every_second_loses_at_most_the_last_one() {
    let args = ["--appendonly", "yes", "--appendfsync", "everysec"];
    let never_anew = ["--auto-aof-rewrite-percentage", "0"];
    let mut server = Server::start(&[&args[..], &never_anew].concat()).await;
    let url = server.url();
    let load = Load::on(move || <fairlane::Broker>::builder().redis(url.clone())).await;
    let mut excused = Excused::default();
    let told = load.during(async |load| {
        let end = Instant::now() + long();
        let queue = load.broker().await.queue(LEASED);
        while Instant::now() < end {
            sleep(SECOND * 4 / 5).await;
            let from = load.record.now();
            // What was answered until then is in the file.
            until("all is written", async || server.info("aof_buffer_length").await == 0).await;
            let size = appended(server.dir()).metadata().unwrap().len();
            // So that what is delivered in that second is not served before it is lost. That is
            // forgotten, too.
            queue.pause().await.unwrap();
            sleep(SECOND).await;
            server.kill();
            let file = File::options().write(true).open(appended(server.dir())).unwrap();
            file.set_len(size).unwrap();
            tear(server.dir(), 0.8);
            sleep(SECOND / 5).await;
            excused.forgotten.push((from, load.record.now()));
            server.recover().await;
        }
    });
    let verdict = told.await.holds("power cut, appendfsync everysec, the last second", &excused);
    assert!(verdict.lost > 0, "that was no power cut: {verdict:?}");
}
