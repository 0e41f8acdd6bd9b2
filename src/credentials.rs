//! Who a broker is for Redis.

use std::{fmt, sync::Arc};

use redis::{RedisError, aio::MultiplexedConnection};
use tokio::time::timeout;
use tracing::warn;

use crate::{
    error::chain,
    link::{Link, send, silent},
};

/// A user and a password; see [`BrokerBuilder::credentials`](crate::BrokerBuilder::credentials).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// None for the user `default`.
    pub(crate) user: Option<String>,
    pub(crate) password: String,
}

impl Credentials {
    /// Those of a user of Redis's ACL.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: Some(user.into()), password: password.into() }
    }

    /// The password alone, of the user `default`.
    pub fn password(password: impl Into<String>) -> Self {
        Self { user: None, password: password.into() }
    }
}

impl fmt::Debug for Credentials {
    /// Never the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Gives those that are good now.
pub(crate) type Current = Arc<dyn Fn() -> Credentials + Send + Sync>;

/// A connection, and who it is for Redis.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) connection: MultiplexedConnection,
    /// Where it leads, without credentials.
    pub(crate) address: Arc<str>,
    /// What Redis has taken; none where the URL says all.
    taken: Option<Credentials>,
    /// What it did not take, which is tried again, and logged once.
    refused: Option<Credentials>,
}

impl Known {
    pub(crate) fn new(
        connection: MultiplexedConnection,
        address: Arc<str>,
        taken: Option<Credentials>,
    ) -> Self {
        Self { connection, address, taken, refused: None }
    }

    /// Tells Redis the credentials that are good now, where they are others than before. Returns
    /// whether there were any to tell. Where Redis does not take them, the connection stays what it
    /// is; an error is that it does not answer.
    pub(crate) async fn renew(&mut self, link: &Link) -> Result<bool, RedisError> {
        let now = link.settings.credentials().filter(|now| self.taken.as_ref() != Some(now));
        let Some(now) = now else { return Ok(false) };
        let mut command = redis::cmd("AUTH");
        command.arg(now.user.as_deref().unwrap_or("default")).arg(&now.password);
        let answer = timeout(link.settings.patience, send(&mut self.connection, &command)).await;
        match answer.unwrap_or_else(|_| Err(silent("renewed credentials").into())) {
            Ok(_) => (self.taken, self.refused) = (Some(now), None),
            Err(error) if error.code().is_none() => return Err(error),
            Err(error) => {
                if self.refused.as_ref() != Some(&now) {
                    let (address, error) = (link.address(), chain(&error));
                    warn!(target: "fairlane", address = &*address, %error, "Redis does not take the renewed credentials");
                }
                self.refused = Some(now);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_show_the_user_and_not_the_password() {
        let shown = format!("{:?}", Credentials::new("me", "hunter2"));
        assert_eq!(shown, "Credentials { user: Some(\"me\"), .. }");
        assert!(!format!("{:?}", Credentials::password("hunter2")).contains("hunter2"));
    }
}
