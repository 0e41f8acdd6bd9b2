//! A Redis that is killed and started again.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use tokio::time::{Instant, sleep};

use crate::{
    check::Excused,
    load::{Load, SECOND, long},
    support::{Server, until},
    work::LEASED,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_loses_nothing_that_it_has_synced() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let url = server.url();
    let load = Load::on(move || <fairlane::Broker>::builder().redis(url.clone())).await;
    let told = load.during(async |_| {
        let end = Instant::now() + long();
        while Instant::now() < end {
            sleep(SECOND / 2).await;
            server.kill();
            sleep(SECOND / 5).await;
            server.launch();
            server.ready().await;
        }
    });
    told.await.holds("kill -9 of Redis, appendfsync always", &Excused::default());
}

/// The file to which a server appends what it does.
fn appended(server: &Server) -> PathBuf {
    let dir = server.socket().with_file_name("appendonlydir");
    let mut files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.find(|path| path.to_string_lossy().ends_with(".incr.aof")).unwrap()
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
            let size = appended(&server).metadata().unwrap().len();
            // So that what is delivered in that second is not served before it is lost. That is
            // forgotten, too.
            queue.pause().await.unwrap();
            sleep(SECOND).await;
            server.kill();
            let file = File::options().write(true).open(appended(&server)).unwrap();
            file.set_len(size).unwrap();
            sleep(SECOND / 5).await;
            excused.forgotten.push((from, load.record.now()));
            server.launch();
            server.ready().await;
        }
    });
    let verdict = told.await.holds("power cut, appendfsync everysec, the last second", &excused);
    assert!(verdict.lost > 0, "that was no power cut: {verdict:?}");
}
