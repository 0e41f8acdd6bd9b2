//! Sentinels, which know the server that is the primary of a service now.

use std::sync::Arc;

use redis::{
    ConnectionAddr, ConnectionInfo, ProtocolVersion, RedisError, TlsMode,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
};

use crate::link::Settings;

/// The sentinels of a broker.
pub(crate) struct Sentinels {
    pub(crate) settings: Arc<Settings>,
    pub(crate) sentinels: Vec<ConnectionInfo>,
    pub(crate) service: String,
    /// All that there is to know of the primary, but for where it is.
    pub(crate) primary: ConnectionInfo,
    /// When all connections were last to hear where it is, and what the sentinels said, if they did.
    pub(crate) lately: Mutex<(Instant, Option<Arc<str>>)>,
}

impl Sentinels {
    /// Ends when they name another primary than this one. Of the connections of a broker, which all wait for
    /// that, one asks for all, and each hears every answer: none is left with one of before a failover.
    pub(crate) async fn name_another(&self, address: &str) {
        loop {
            let (last, _) = *self.lately.lock().await;
            sleep_until(last + self.settings.patience).await;
            let mut lately = self.lately.lock().await;
            if lately.0 == last {
                let asked = Instant::now();
                let found = timeout(self.settings.patience, self.primary()).await;
                let found = found.ok().and_then(Result::ok);
                *lately = (asked, found.map(|primary| primary.addr().to_string().into()));
            }
            if lately.1.as_deref().is_some_and(|primary| primary != address) {
                return;
            }
        }
    }

    /// The server that is the primary, and says so itself.
    pub(crate) async fn primary(&self) -> Result<ConnectionInfo, RedisError> {
        // Made anew each time: credentials may be others by now, and it is not asked often.
        let addresses = self.sentinels.iter().map(|sentinel| sentinel.addr().clone());
        let mut client = SentinelClientBuilder::new(
            addresses,
            self.service.clone(),
            SentinelServerType::Master,
        )?;
        let primary = self.settings.of(self.primary.clone(), self.settings.credentials().as_ref());
        let server = primary.redis_settings();
        client = client
            .set_client_to_redis_db(server.db())
            .set_client_to_redis_protocol(ProtocolVersion::RESP3);
        if let Some(user) = server.username() {
            client = client.set_client_to_redis_username(user);
        }
        if let Some(password) = server.password() {
            client = client.set_client_to_redis_password(password);
        }
        let sentinel = self.sentinels[0].redis_settings();
        if let Some(user) = sentinel.username() {
            client = client.set_client_to_sentinel_username(user);
        }
        if let Some(password) = sentinel.password() {
            client = client.set_client_to_sentinel_password(password);
        }
        if let ConnectionAddr::TcpTls { insecure, .. } = self.primary.addr() {
            let mode = if *insecure { TlsMode::Insecure } else { TlsMode::Secure };
            client =
                client.set_client_to_redis_tls_mode(mode).set_client_to_sentinel_tls_mode(mode);
        }
        #[cfg(feature = "tls")]
        if let Some(certificates) = &self.settings.certificates {
            client = client
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        let found = client.build()?.async_get_client().await?;
        Ok(self.primary.clone().set_addr(found.get_connection_info().addr().clone()))
    }
}
