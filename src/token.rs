//! The token of a lease.

use std::{
    cmp::Ordering,
    fmt::{self, Display},
    str::FromStr,
    sync::Arc,
};

use crate::{Delivery, Invalid, MessageId, keys::check_name, message::number};

/// The right to settle one lease. As text, `queue/id/lease`, it can be given to another process.
///
/// The number of the lease is drawn anew for each lease: whoever holds an older token of the same
/// message can neither ack, nack nor extend what another one holds now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    pub(crate) queue: Arc<str>,
    pub(crate) id: MessageId,
    pub(crate) lease: u64,
}

impl Token {
    /// The order in which tokens are settled: what was leased together goes as one group.
    pub(crate) fn by_lease(&self, other: &Self) -> Ordering {
        let order = |token: &Self| (token.lease, token.id);
        self.queue.cmp(&other.queue).then_with(|| order(self).cmp(&order(other)))
    }

    /// That of what goes back to the front of its facet: that of its facet, whatever its lease.
    pub(crate) fn by_id(&self, other: &Self) -> Ordering {
        self.queue.cmp(&other.queue).then_with(|| self.id.cmp(&other.id))
    }
}

impl Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.queue, self.id, self.lease)
    }
}

impl FromStr for Token {
    type Err = Invalid;

    /// Reads what [`Display`] wrote.
    ///
    /// # Errors
    /// [`Invalid::Token`] for anything else.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut parts = text.split('/');
        let token = (|| {
            let queue = parts.next().filter(|name| check_name(name).is_ok())?;
            let id = MessageId(number(parts.next()?)?);
            let lease = number(parts.next()?)?;
            Some(Self { queue: queue.into(), id, lease })
        })();
        token.filter(|_| parts.next().is_none()).ok_or(Invalid::Token)
    }
}

impl<T> From<Delivery<T>> for Token {
    fn from(delivery: Delivery<T>) -> Self {
        delivery.into_token()
    }
}

impl<T> From<&Delivery<T>> for Token {
    fn from(delivery: &Delivery<T>) -> Self {
        delivery.token().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_way_through_text() {
        let token = Token { queue: "a.b-c".into(), id: MessageId(7), lease: u64::MAX };
        assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in [
            "", "q", "q/1", "q/1/2/3", "q/x/1", "q/1/-1", "q/+1/1", "q/01/1", "a:b/1/1", "/1/1",
            "q/1/ 1",
        ] {
            assert!(matches!(text.parse::<Token>(), Err(Invalid::Token)), "{text}");
        }
    }
}
