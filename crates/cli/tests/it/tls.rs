use crate::support::{error, program};

/// What is said of options that make no sense.
fn refused(args: &[&str]) -> String {
    let output = program().arg("queues").args(args).output().unwrap();
    let said = error(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn files_for_tls_are_read_and_what_is_wrong_with_them_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (there, missing) = (dir.path().join("some.pem"), dir.path().join("none.pem"));
    std::fs::write(&there, "no certificate").unwrap();
    let (there, missing) = (there.to_str().unwrap(), missing.to_str().unwrap());
    let tls = ["--redis", "rediss://localhost"];
    let said = |args: &[&str]| refused(&[&tls, args].concat());
    assert!(said(&["--tls-ca", missing]).contains("none.pem cannot be read"));
    assert!(said(&["--tls-ca", there]).contains("the authority for TLS cannot be used"));
    let both = said(&["--tls-cert", there, "--tls-key", there]);
    assert!(both.contains("the certificate for TLS cannot be used"), "{both}");
    assert!(said(&["--tls-cert", there]).contains("--tls-cert and --tls-key go together"));
    assert!(said(&["--tls-key", there]).contains("--tls-cert and --tls-key go together"));
    let mut by_variable = program();
    by_variable.args(["queues"]).args(tls).env("FAIRLANE_TLS_CA", missing);
    assert!(error(&by_variable.output().unwrap()).contains("none.pem cannot be read"));
}
