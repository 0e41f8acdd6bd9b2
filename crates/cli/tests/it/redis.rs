use std::io::Read;

use rustix::process::Signal;

use crate::support::{Server, eventually, program, text};

#[test]
fn another_terminal_uses_the_server_by_its_url() {
    let server = Server::start();
    assert_eq!(server.url, format!("unix://{}", server.socket().canonicalize().unwrap().display()));
    let run = |args: &[&str]| {
        let output = program().args(args).env("FAIRLANE_REDIS", &server.url).output().unwrap();
        assert!(output.status.success());
        text(&output)
    };
    run(&["register", "q", "."]);
    assert_eq!(run(&["queues", "--json"]), "{\"queue\":\"q\",\"pattern\":\".\"}\n");
}

#[test]
fn programs_get_the_url_as_json() {
    let server = Server::with(&["--json"]);
    let record: serde_json::Value = serde_json::from_str(&server.url).unwrap();
    let socket = server.socket().canonicalize().unwrap();
    assert_eq!(record, serde_json::json!({"url": format!("unix://{}", socket.display())}));
}

#[test]
fn it_ends_when_it_is_told_to_and_the_server_with_it() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut server = Server::start();
        assert_eq!(server.command("PING"), "+PONG");
        server.signal(signal);
        assert!(server.child.wait().unwrap().success());
        assert!(!server.socket().exists());
        let mut more = String::new();
        server.out.read_to_string(&mut more).unwrap();
        assert_eq!(more, "");
    }
}

#[test]
fn it_says_so_when_the_server_dies() {
    let mut server = Server::start();
    server.command("SHUTDOWN NOSAVE");
    let status = server.child.wait().unwrap();
    let mut said = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(said.starts_with("error: the server has died; its log is "), "{said}");
}

#[test]
fn a_connection_that_is_closed_alone_ends_nothing() {
    let server = Server::start();
    server.command("CLIENT KILL TYPE normal SKIPME yes");
    eventually(|| server.command("PING") == "+PONG");
    assert_eq!(server.command("CLIENT KILL TYPE normal SKIPME yes").chars().next(), Some(':'));
    eventually(|| server.command("PING") == "+PONG");
}

#[test]
fn a_directory_that_is_in_use_is_refused() {
    let server = Server::start();
    let output = program().arg("redis").arg(server.dir.path().join("data")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is in use by another process"));
}
