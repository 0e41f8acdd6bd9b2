#![doc = include_str!("../README.md")]

mod broker;
mod builder;
mod connection;
mod core;
mod deliver;
mod delivery;
#[cfg(all(unix, feature = "embedded"))]
mod embedded;
mod error;
mod facet;
mod keys;
mod lease;
mod message;
mod pull;
mod queue;
mod routes;
mod scripts;
mod settle;
mod take;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
mod token;

pub use broker::Broker;
pub use builder::BrokerBuilder;
pub use delivery::Delivery;
pub use error::{Cause, Error, Invalid, Pulled, Result, Undecodable};
pub use facet::Facet;
pub use lease::Lease;
pub use message::{Message, MessageId, Receipt};
pub use pull::Pull;
pub use queue::Queue;
pub use routes::Route;
pub use token::Token;

/// Says what a handle is, and nothing of what it holds: closures, connections, passwords.
macro_rules! opaque_debug {
    ($name:ident $(<$type:ident>)?) => {
        impl$(<$type>)? std::fmt::Debug for $name$(<$type>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}
pub(crate) use opaque_debug;
