#![doc = include_str!("../README.md")]

/// What is shown there is compiled, too.
#[cfg(all(doctest, feature = "tls"))]
#[doc = include_str!("../docs/operations.md")]
struct Operations;

mod address;
mod broker;
mod builder;
#[cfg(feature = "metrics")]
mod busiest;
#[cfg(feature = "cluster")]
mod cluster;
mod connection;
mod core;
mod credentials;
mod dead_letters;
mod deliver;
mod delivery;
mod destroy;
mod doctor;
mod durable;
#[cfg(all(unix, feature = "embedded"))]
mod embedded;
mod ended;
mod error;
mod facet;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gather;
mod health;
mod in_hand;
mod keys;
mod layout;
mod lease;
mod link;
mod listener;
mod marker;
mod message;
#[cfg_attr(not(feature = "metrics"), path = "no_metrics.rs")]
mod metrics;
mod outcome;
mod partition;
mod pull;
mod queue;
mod queues;
mod random;
mod register;
mod routes;
mod scripts;
#[cfg(feature = "sentinel")]
mod sentinel;
mod serve;
mod settings;
mod settle;
mod stats;
mod stop;
mod subscriptions;
mod take;
mod taking;
#[cfg(all(unix, feature = "testing"))]
mod test_cluster;
#[cfg(all(unix, feature = "testing"))]
mod test_node;
#[cfg(all(unix, feature = "testing"))]
pub mod testing;
#[cfg(feature = "tls")]
mod tls;
mod token;
mod visits;
mod wait;
mod work;
mod worker;

pub use broker::Broker;
pub use builder::BrokerBuilder;
pub use credentials::Credentials;
pub use dead_letters::{DeadLetter, DeadLetters, Death};
pub use delivery::Delivery;
pub use doctor::Finding;
pub use durable::Replicas;
pub use error::{Cause, Error, ErrorKind, Invalid, Pulled, Refusal, Result, Undecodable};
pub use facet::Facet;
pub use health::{Health, PartitionHealth};
pub use lease::{Deliveries, Lease};
pub use listener::{Heard, Listener, Missed};
pub use message::{AnyError, Headers, Message, MessageId, Receipt};
pub use outcome::{Handled, Outcome, Report};
pub use pull::Pull;
pub use queue::Queue;
pub use queues::Queues;
pub use routes::Route;
pub use settings::{Backoff, FacetSettings, Overflow, QueueSettings, Rate};
pub use stats::{Cursor, FacetState, FacetStats, Gate, Peeked, Stats, Why};
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use token::Token;
pub use tokio_util::sync::CancellationToken;
pub use worker::Worker;

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
