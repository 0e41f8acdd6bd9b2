//! Who a broker is for Redis.

use std::{fmt, sync::Arc};

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
