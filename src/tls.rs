//! Whom a broker trusts by TLS, and how it shows who it is.

use std::fmt;

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::Invalid;

/// The certificates of a broker that reaches Redis by TLS; see [`BrokerBuilder::tls`](crate::BrokerBuilder::tls).
///
/// All that is given is PEM. Without any, the server has to be one that the machine trusts, and is told nothing of who
/// this is.
#[derive(Clone, Default)]
#[must_use = "it is to be given to a builder"]
pub struct Tls {
    authority: Option<Vec<u8>>,
    /// The certificate, with those between it and its authority, and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Without any certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts servers whose certificates are of this authority, or one of several in a row, and no others.
    /// Defaults to those that the machine trusts.
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(pem.into());
        self
    }

    /// Shows a server who this is: a certificate, followed by those between it and its authority, and its
    /// key. Defaults to none.
    pub fn identity(
        mut self,
        certificate_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((certificate_pem.into(), key_pem.into()));
        self
    }

    /// What the connections take. What could not be used is found here: they would trust nobody, and
    /// not say why. No error repeats what was given, since it may be the key.
    pub(crate) fn certificates(self) -> Result<redis::TlsCertificates, Invalid> {
        let refused = |what, problem| Err(Invalid::Tls { what, problem });
        if let Some(pem) = &self.authority {
            let mut trusted = RootCertStore::empty();
            for certificate in chain("authority", pem)? {
                if trusted.add(certificate).is_err() {
                    return refused("authority", "it is no certificate");
                }
            }
        }
        if let Some((certificate, key)) = &self.identity {
            let certificates = chain("certificate", certificate)?;
            let Ok(key) = PrivateKeyDer::from_pem_slice(key) else {
                return refused("key", "it is no PEM of a private key");
            };
            if CertifiedKey::from_der(certificates, key, &ring::default_provider()).is_err() {
                return refused("key", "it is not that of the certificate");
            }
        }
        let client = |(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key };
        Ok(redis::TlsCertificates {
            client_tls: self.identity.map(client),
            root_cert: self.authority,
        })
    }
}

/// The certificates of a PEM: at least one.
fn chain(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Invalid> {
    let found: Option<Vec<_>> = CertificateDer::pem_slice_iter(pem).map(Result::ok).collect();
    let problem = "it is no PEM of a certificate";
    found.filter(|found| !found.is_empty()).ok_or(Invalid::Tls { what, problem })
}

/// A program with several providers of cryptography has to name one; where it has, this changes
/// nothing.
pub(crate) fn provide() {
    let _ = ring::default_provider().install_default();
}

impl fmt::Debug for Tls {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authority", &self.authority.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_keys_are_not_shown() {
        let shown = format!("{:?}", Tls::new().identity("hunter2", "hunter2"));
        assert_eq!(shown, "Tls { authority: false, identity: true }");
    }
}
