//! The broker: routes, deliver, and settling by token.

use std::{
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    BrokerBuilder, Health, Listener, Message, Queue, Queues, Receipt, Route, Token,
    core::Core,
    deliver::{deliver, deliver_one},
    delivery::{self, failing},
    error::Result,
    health,
    keys::check_name,
    listener::listen,
    message::Form,
    opaque_debug,
    queues::Source,
    register::{register, spread, unregister},
    routes::check_pattern,
    settle::{ACK, NACK, ack_one, settle, settle_one},
};

/// Delivers messages of type `T`, and gives access to the queues that hold them.
///
/// Cheap to clone; all clones share one connection, which comes back by itself when it breaks.
pub struct Broker<T = Value> {
    pub(crate) core: Arc<Core>,
    pub(crate) form: Arc<Form<T>>,
}

opaque_debug!(Broker<T>);

impl<T> Clone for Broker<T> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), form: self.form.clone() }
    }
}

impl<T: Serialize + DeserializeOwned> Broker<T> {
    /// Begins a broker for messages of type `T`, which travel as JSON.
    ///
    /// ```no_run
    /// # use fairlane::Broker;
    /// # #[tokio::main] async fn main() -> fairlane::Result<()> {
    /// let broker: Broker = Broker::builder().connect().await?; // any JSON, Redis on this machine
    /// broker.deliver(&serde_json::json!({"facet": "acme", "topic": "page:home"})).await?;
    /// # Ok(()) }
    /// ```
    pub fn builder() -> BrokerBuilder<T> {
        BrokerBuilder::new(Form::json())
    }
}

impl<T> Broker<T> {
    /// A broker for messages of another type that shares this one's connection, namespace and
    /// limits. Facet and topic are the fields of the message, until [`facet`](Self::facet) and
    /// [`topic`](Self::topic) say otherwise.
    ///
    /// ```no_run
    /// # use fairlane::Broker;
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Order { account: u64, kind: String }
    /// # async fn example(broker: Broker) {
    /// let orders = broker.with_type::<Order>().facet(|o| o.account).topic(|o| format!("order:{}", o.kind));
    /// # }
    /// ```
    pub fn with_type<U: Serialize + DeserializeOwned>(&self) -> Broker<U> {
        Broker { core: self.core.clone(), form: Arc::new(Form::json()) }
    }

    /// This broker, with another closure for whose a message is. Clones made before keep theirs.
    pub fn facet<D: Display>(self, of: impl Fn(&T) -> D + Send + Sync + 'static) -> Self {
        let mut form = Form::clone(&self.form);
        form.facet(of);
        Self { form: Arc::new(form), ..self }
    }

    /// This broker, with another closure for what a message is about. Clones made before keep
    /// theirs.
    pub fn topic<D: Display>(self, of: impl Fn(&T) -> D + Send + Sync + 'static) -> Self {
        let mut form = Form::clone(&self.form);
        form.topic(of);
        Self { form: Arc::new(form), ..self }
    }

    /// Sets the route of a queue: what is delivered from now on to a topic that `pattern` matches
    /// goes on it.
    ///
    /// Where a queue of that name is being destroyed, this first ends that.
    ///
    /// `pattern` is a regular expression of the [`regex`] crate, of up to 4,096 bytes, not
    /// anchored: `^` and `$` do that; and `.` is any character but a line break, `(?s).` any at
    /// all. The same pattern again changes nothing, another one takes its place; what is on the
    /// queue stays.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a name that is not 1 to 128 of `A-Z a-z 0-9 . _ -`,
    /// or a pattern that does not compile or is too large; [`Partly`](crate::Error::Partly) when not all
    /// partitions of the namespace were reached.
    pub async fn register_queue(&self, name: &str, pattern: &str) -> Result<Queue<T>> {
        check_name(name)?;
        check_pattern(pattern)?;
        register(self.core.first(), name, pattern).await?;
        spread(&self.core, name).await?;
        Ok(self.queue(name))
    }

    /// Removes the route of a queue: nothing more is delivered to it. What is on it stays, and can
    /// be pulled and leased. Returns whether there was a route.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a name that no queue can have;
    /// [`Partly`](crate::Error::Partly) as for [`register_queue`](Self::register_queue).
    pub async fn unregister_queue(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        let was_there = unregister(self.core.first(), name).await?;
        spread(&self.core, name).await?;
        Ok(was_there)
    }

    /// The routes that are registered now, by any client, in the order of their queues' names.
    ///
    /// One whose pattern does not compile here matches nothing; it is reported as a warning.
    pub async fn queues(&self) -> Result<Vec<Route>> {
        Ok(self.core.first().load_routes(None, self.core.end()).await?.all.clone())
    }

    /// Asks the servers of all partitions for an answer, and says how the connections to them are. It never
    /// fails, and takes at most the deadline.
    ///
    /// ```no_run
    /// # async fn example(broker: fairlane::Broker) {
    /// for partition in broker.health().await.partitions {
    ///     println!("{}: {:?}", partition.address, partition.answer);
    /// }
    /// # }
    /// ```
    pub async fn health(&self) -> Health {
        health::health(&self.core).await
    }

    /// A handle for a queue. It makes no call: a bad or unknown name is the error of the first call
    /// that is made on it.
    pub fn queue(&self, name: impl Into<String>) -> Queue<T> {
        Queue { broker: self.clone(), name: name.into().into() }
    }

    /// Several queues as one source: the first that has something is served.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(broker: fairlane::Broker) -> fairlane::Result<()> {
    /// let source = broker.in_order(["urgent", "bulk"]);
    /// let delivery = source.lease().wait(Duration::from_secs(20)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// It makes no call: bad or unknown names are the error of the first call that is made on it. A
    /// queue is starved while those before it always have something.
    pub fn in_order<S: Into<String>>(&self, names: impl IntoIterator<Item = S>) -> Queues<T> {
        let queues = names.into_iter().map(|name| name.into().into()).collect();
        Queues { broker: self.clone(), source: Source::InOrder(queues) }
    }

    /// Several queues as one source, which each call tries in a random order that is drawn by
    /// weight, 0.001 to 1000: of two that both have something, one of weight 10 is served ten times
    /// as often as one of weight 1.
    ///
    /// It makes no call: bad or unknown names and weights are the error of the first call that is
    /// made on it.
    pub fn by_weight<S: Into<String>>(
        &self,
        names: impl IntoIterator<Item = (S, f64)>,
    ) -> Queues<T> {
        let weighted = names.into_iter().map(|(name, weight)| (name.into().into(), weight));
        Queues { broker: self.clone(), source: Source::ByWeight(weighted.collect()) }
    }

    /// Delivers a message, to all queues whose pattern matches its topic and to everyone listening,
    /// or to none of them.
    ///
    /// The receipt names the queues. That there is none is no error: the message is then kept
    /// nowhere. What one message costs Redis grows with the queues that match it, by about 15 us
    /// for each. Calls that are made at the same time have no order among each other.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when facet or topic is missing, empty or longer than 512
    /// bytes, the body larger than the broker's [`max_body`](BrokerBuilder::max_body), or what the
    /// message says of itself out of its range; [`Refused`](crate::Error::Refused) when a queue takes
    /// nothing of its facet; [`Full`](crate::Error::Full) when Redis is out of memory. After
    /// [`MaybeApplied`](crate::Error::MaybeApplied) it may have been delivered: a message with a
    /// [`key`](Message::key) can be delivered again without doubling it.
    pub async fn deliver<'a>(&self, message: impl Into<Message<'a, T>>) -> Result<Receipt>
    where
        T: 'a,
    {
        let ready = self.form.ready(message.into(), &self.core)?;
        deliver_one(&self.core, ready).await
    }

    /// Delivers messages in their order, and returns their receipts in that order.
    ///
    /// All of them are checked before the first is sent. They are cut into parts of at most 500
    /// writes and 512 KiB, each delivered wholly or not at all, one after the other.
    ///
    /// # Errors
    /// As for [`deliver`](Self::deliver). The first part that fails stops the rest: when parts
    /// before it are delivered, the error is [`Interrupted`](crate::Error::Interrupted), with their
    /// receipts.
    pub async fn deliver_all<'a, I>(&self, messages: I) -> Result<Vec<Receipt>>
    where
        I: IntoIterator<Item: Into<Message<'a, T>>>,
        T: 'a,
    {
        let ready = messages.into_iter().map(|message| self.form.ready(message.into(), &self.core));
        let ready: Vec<_> = ready.collect::<Result<_, _>>()?;
        deliver(&self.core, ready).await
    }

    /// Hears live what is delivered from now on to topics that `glob` matches, on any queue or on
    /// none. It takes nothing from the queues, and misses what is delivered while nobody listens.
    ///
    /// `glob` is one of Redis, of 1 to 512 bytes, for the whole topic: `*` is any text, `?` one
    /// byte, `[a-z]` one of these, and `\` takes the next as it is. (Queues have regular
    /// expressions instead.) The namespace is put in front of it. Where there is none, channels
    /// that others use match too.
    ///
    /// ```no_run
    /// # use fairlane::{Heard, Missed};
    /// # async fn example(broker: fairlane::Broker) -> fairlane::Result<()> {
    /// let mut pages = broker.listen("page:*google*").await?;
    /// while let Some(heard) = pages.next().await {
    ///     match heard {
    ///         Ok(Heard { topic, message, .. }) => println!("{topic} {message}"),
    ///         Err(missed) => eprintln!("{missed}"), // and it goes on
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// All listeners of a broker share a connection of their own. When it breaks it comes back by
    /// itself, and each of them is told of the [`Gap`](crate::Missed::Gap). Those with the same
    /// glob count as one in [`Receipt::listeners`]. An ACL has to allow the channels (`&shop:*`).
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a glob that is empty or too long;
    /// [`NotSent`](crate::Error::NotSent) when Redis has not confirmed it within the deadline.
    pub async fn listen(&self, glob: impl Into<String>) -> Result<Listener<T>> {
        listen(&self.core, &glob.into(), self.form.decode.clone()).await
    }

    /// As [`Delivery::ack`](crate::Delivery::ack), by token.
    ///
    /// # Errors
    /// As there.
    pub async fn ack(&self, token: &Token) -> Result<()> {
        ack_one(&self.core, token, None).await
    }

    /// As [`Delivery::nack`](crate::Delivery::nack), by token.
    ///
    /// # Errors
    /// As there.
    pub async fn nack(&self, token: &Token) -> Result<()> {
        settle_one(&self.core, &NACK, token).await
    }

    /// As [`Delivery::ack_cost`](crate::Delivery::ack_cost), by token.
    ///
    /// # Errors
    /// As there.
    pub async fn ack_cost(&self, token: &Token, cost: f64) -> Result<()> {
        delivery::ack_cost(&self.core, token, cost, None).await
    }

    /// As [`Delivery::nack_after`](crate::Delivery::nack_after), by token.
    ///
    /// # Errors
    /// As there.
    pub async fn nack_after(&self, token: &Token, time: Duration) -> Result<()> {
        delivery::nack_after(&self.core, token, time).await
    }

    /// As [`Delivery::fail`](crate::Delivery::fail), by token.
    ///
    /// # Errors
    /// As there.
    pub async fn fail(&self, token: &Token, reason: impl Display) -> Result<()> {
        settle_one(&self.core, &failing(&reason, false), token).await
    }

    /// As [`Delivery::bury`](crate::Delivery::bury), by token.
    ///
    /// # Errors
    /// As there.
    pub async fn bury(&self, token: &Token, reason: impl Display) -> Result<()> {
        settle_one(&self.core, &failing(&reason, true), token).await
    }

    /// As [`Delivery::hold_facet`](crate::Delivery::hold_facet), by token.
    ///
    /// # Errors
    /// As there.
    pub async fn hold_facet(&self, token: &Token, time: Duration) -> Result<()> {
        delivery::hold_facet(&self.core, token, time).await
    }

    /// As [`Delivery::extend`](crate::Delivery::extend), by token. Returns when the lease ends now,
    /// on the local monotonic clock.
    ///
    /// # Errors
    /// As there.
    pub async fn extend(&self, token: &Token, lease: Duration) -> Result<Instant> {
        delivery::extend(&self.core, token, lease).await
    }

    /// Acks deliveries or tokens, of any queues, in one round trip for each 1,000. Returns the
    /// tokens whose lease was lost: none is the good case.
    ///
    /// # Errors
    /// Those of [`ack`](Self::ack), but for `LeaseLost`. What was acked before the error is acked,
    /// and lost for a second call.
    pub async fn ack_all(&self, done: impl IntoIterator<Item: Into<Token>>) -> Result<Vec<Token>> {
        let tokens: Vec<Token> = done.into_iter().map(Into::into).collect();
        settle(&self.core, &ACK, &tokens).await
    }
}
