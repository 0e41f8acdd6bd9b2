//! Redis by TLS: on a server that speaks it, and where the program cannot, on one behind what speaks
//! it in its place.

use std::{error::Error as _, fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use fairlane::{AnyError, Broker, BrokerBuilder, Error, Heard, Invalid, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, UnixStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use crate::support::{self, Server, free_port, message, until};

/// What is waited for a connection that will not be: time for one try, however busy the machine is.
const SHORT: Duration = Duration::from_secs(2);

/// Somebody who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
type Identity = (String, String);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        // Or a certificate looks as if it was signed by itself.
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn sign(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// A server that is reached by TLS, as `localhost` alone.
struct Secured {
    server: Server,
    port: u16,
    authority: Authority,
    _dir: tempfile::TempDir,
}

impl Secured {
    /// With one that wants to know by a certificate who comes, or takes everybody.
    async fn start(everybody: bool) -> Self {
        let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
        let (certificate, key) = authority.sign("localhost");
        if !speaks_tls() {
            let server = Server::start(&[]).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            terminate(listener, &authority, everybody, server.socket());
            return Self { server, port, authority, _dir: dir };
        }
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let port = free_port();
        let (ca, certificate) =
            (file("ca.pem", &authority.pem()), file("server.pem", &certificate));
        let (key, clients) = (file("server.key", &key), if everybody { "no" } else { "yes" });
        let args = format!(
            "--bind 127.0.0.1 --tls-port {port} --tls-auth-clients {clients} \
             --tls-ca-cert-file {ca} --tls-cert-file {certificate} --tls-key-file {key}"
        );
        let server = Server::start(&args.split(' ').collect::<Vec<_>>()).await;
        Self { server, port, authority, _dir: dir }
    }

    fn builder(&self) -> BrokerBuilder {
        <Broker>::builder().redis(format!("rediss://localhost:{}", self.port)).deadline(SHORT)
    }

    fn trusted(&self) -> Tls {
        Tls::new().authority(self.authority.pem())
    }

    fn known(&self) -> Tls {
        let (certificate, key) = self.authority.sign("a client");
        self.trusted().identity(certificate, key)
    }

    /// Why it does not connect, with all that lies behind it.
    async fn refused(&self, builder: BrokerBuilder) -> String {
        let error = builder.connect().await.err().unwrap();
        assert!(matches!(error, Error::NotSent(_)), "{error:?}");
        let (mut text, mut cause) = (String::new(), error.source());
        while let Some(behind) = cause {
            text += &format!("{behind}; ");
            cause = behind.source();
        }
        text
    }
}

/// Whether the program of the tests has TLS built in: then it misses the certificate first.
fn speaks_tls() -> bool {
    let program = fairlane::testing::server_program().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tried = Command::new(program)
        .args(["--port", "0", "--tls-replication", "yes"])
        .current_dir(&dir)
        .output()
        .unwrap();
    assert!(!tried.status.success());
    String::from_utf8_lossy(&tried.stdout).contains("tls-cert-file")
}

/// Speaks TLS in the place of the server that has the socket.
fn terminate(listener: TcpListener, authority: &Authority, everybody: bool, socket: PathBuf) {
    let provider = Arc::new(ring::default_provider());
    let mut trusted = RootCertStore::empty();
    trusted.add(authority.0.der().clone()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), provider.clone()).build();
    let config =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = match everybody {
        true => config.unwrap().with_no_client_auth(),
        false => config.unwrap().with_client_cert_verifier(clients.unwrap()),
    };
    let (certificate, key) = authority.sign("localhost");
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let acceptor =
        TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).unwrap()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, socket) = (acceptor.clone(), socket.clone());
            tokio::spawn(async move {
                // Who does not trust the certificate, or is not trusted, goes away here.
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut redis = UnixStream::connect(socket).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut redis).await;
                }
            });
        }
    });
}

/// Delivers, hears, waits and works.
async fn all_of_it(broker: Broker, server: &Server) {
    let queue = broker.register_queue("q", ".").await.unwrap();
    let mut listener = broker.listen("*").await.unwrap();
    let wait = queue.lease().wait(Duration::from_secs(10));
    let waiting = tokio::spawn(wait.into_future());
    until("it waits", || async { server.blocked().await > 0 }).await;
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    waiting.await.unwrap().unwrap().unwrap().ack().await.unwrap();
    let Heard { topic, .. } = listener.next().await.unwrap().unwrap();
    assert_eq!(topic, "t");
    broker.deliver(&message("a", "t", 2)).await.unwrap();
    let worker = queue.worker(async |_| Ok::<_, AnyError>(()));
    assert_eq!(worker.run_until_empty().await.unwrap().acked, 1);
}

#[tokio::test]
async fn a_private_authority_and_a_certificate_of_the_client_lead_to_the_server() {
    let secured = Secured::start(false).await;
    let builder = secured.builder().tls(secured.known()).deadline(Duration::from_secs(5));
    let broker = builder.connect().await.unwrap();
    all_of_it(broker, &secured.server).await;
}

#[tokio::test]
async fn a_private_authority_alone_is_enough_where_everybody_may_come() {
    let secured = Secured::start(true).await;
    let builder = secured.builder().tls(secured.trusted()).deadline(Duration::from_secs(5));
    let broker = builder.connect().await.unwrap();
    all_of_it(broker, &secured.server).await;
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused_and_it_is_said_why() {
    let secured = Secured::start(true).await;
    let other = Tls::new().authority(Authority::new().pem());
    let why = secured.refused(secured.builder().tls(other)).await;
    assert!(why.contains("invalid peer certificate"), "{why}");
    // The machine does not trust it, either.
    let why = secured.refused(secured.builder()).await;
    assert!(why.contains("invalid peer certificate: UnknownIssuer"), "{why}");
}

#[tokio::test]
async fn a_server_that_has_another_name_is_refused_and_it_is_said_why() {
    let secured = Secured::start(true).await;
    let by_number = format!("rediss://127.0.0.1:{}", secured.port);
    let builder = secured.builder().redis(by_number).tls(secured.trusted());
    let why = secured.refused(builder).await;
    assert!(why.contains("certificate not valid for name \"127.0.0.1\""), "{why}");
}

#[tokio::test]
async fn a_client_without_a_certificate_or_with_one_of_another_authority_is_refused() {
    let secured = Secured::start(false).await;
    let why = secured.refused(secured.builder().tls(secured.trusted())).await;
    assert!(why.contains("CertificateRequired"), "{why}");
    let (certificate, key) = Authority::new().sign("somebody");
    let stranger = secured.trusted().identity(certificate, key);
    let why = secured.refused(secured.builder().tls(stranger)).await;
    assert!(why.contains("received fatal alert"), "{why}");
}

#[tokio::test]
async fn a_cluster_is_reached_by_tls_by_the_names_of_its_nodes() {
    let (authority, listener) = (Authority::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let port = listener.local_addr().unwrap().port();
    let args = format!(
        "--cluster-enabled yes --bind 127.0.0.1 --port {} --cluster-port {} --cluster-announce-port {port} \
         --cluster-announce-hostname localhost --cluster-preferred-endpoint-type hostname",
        free_port(),
        free_port()
    );
    let server = Server::start(&args.split(' ').collect::<Vec<_>>()).await;
    terminate(listener, &authority, false, server.socket());
    server.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    until("the cluster serves", || async {
        server.run::<String>(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok")
    })
    .await;
    let (certificate, key) = authority.sign("a client");
    let tls = Tls::new().authority(authority.pem()).identity(certificate, key);
    let url = format!("rediss-cluster://localhost:{port}");
    let broker = <Broker>::builder().redis(url).tls(tls).partitions(2).connect().await.unwrap();
    all_of_it(broker, &server).await;
}

#[tokio::test]
async fn what_is_no_certificate_or_not_for_tls_is_refused_before_a_connection_is_made() {
    let nowhere = || <Broker>::builder().redis("rediss://192.0.2.1");
    let (authority, other) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.sign("a client");
    let empty = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    let cases = [
        ("authority", Tls::new().authority("")),
        ("authority", Tls::new().authority("ca.pem")),
        ("authority", Tls::new().authority(empty)),
        ("authority", Tls::new().authority(key.clone())),
        ("certificate", Tls::new().identity(key.clone(), key.clone())),
        ("key", Tls::new().identity(certificate.clone(), certificate.clone())),
        ("key", Tls::new().identity(certificate.clone(), "secret")),
        ("key", Tls::new().identity(certificate.clone(), other.sign("a client").1)),
    ];
    for (wrong, tls) in cases {
        match nowhere().tls(tls).connect().await {
            Err(Error::Invalid(Invalid::Tls { what, .. })) => assert_eq!(what, wrong),
            other => panic!("{wrong}: {other:?}"),
        }
    }
    let dir = tempfile::tempdir().unwrap();
    for builder in [nowhere().redis("redis://192.0.2.1"), nowhere().embedded(dir.path())] {
        match builder.tls(Tls::new().authority(authority.pem())).connect().await {
            Err(Error::Invalid(Invalid::Url { problem })) => assert!(problem.contains("rediss")),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
}

#[tokio::test]
async fn a_rediss_url_connects_by_tls_to_whom_the_machine_trusts() {
    if let Some(dir) = support::other_process() {
        let url = fs::read_to_string(dir.join("url")).unwrap();
        let broker = <Broker>::builder().redis(url).connect().await.unwrap();
        broker.register_queue("q", ".").await.unwrap();
        broker.deliver(&message("a", "t", 1)).await.unwrap();
        assert!(broker.queue("q").pull().await.unwrap().is_some());
        return;
    }
    let secured = Secured::start(true).await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("url"), format!("rediss://localhost:{}", secured.port)).unwrap();
    fs::write(dir.path().join("ca.pem"), secured.authority.pem()).unwrap();
    let test = "tls::a_rediss_url_connects_by_tls_to_whom_the_machine_trusts";
    let mut trusting = support::another_process(test, dir.path());
    trusting.env("SSL_CERT_FILE", dir.path().join("ca.pem"));
    let status = tokio::task::spawn_blocking(move || trusting.status().unwrap()).await.unwrap();
    assert!(status.success());
}
