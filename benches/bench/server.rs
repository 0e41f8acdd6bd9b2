//! The server that is measured, and what it says of itself.

use std::{net::TcpListener, time::Duration};

use fairlane::{Broker, BrokerBuilder};
use redis::aio::MultiplexedConnection;

use crate::Any;

/// A private Redis that listens on a port of the loopback interface and keeps nothing on disk.
pub(crate) struct Server {
    pub(crate) broker: Broker,
    pub(crate) raw: MultiplexedConnection,
    pub(crate) url: String,
    _embedded: Broker,
    _dir: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Result<Self, Any> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("redis");
        let embedded: Broker = Broker::builder().embedded(&path).connect().await?;
        let socket = format!("unix://{}", path.join("redis.sock").display());
        let mut raw = redis::Client::open(socket)?.get_multiplexed_async_connection().await?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = [
            ("appendonly", "no"),
            ("save", ""),
            ("bind", "127.0.0.1"),
            ("port", &port.to_string()),
            ("slowlog-log-slower-than", "1000"),
            ("slowlog-max-len", "100000"),
        ];
        for (name, value) in settings {
            redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec_async(&mut raw).await?;
        }
        let url = format!("redis://127.0.0.1:{port}");
        let broker = builder(&url).connect().await?;
        let raw = connect(&url).await?;
        Ok(Self { broker, raw, url, _embedded: embedded, _dir: dir })
    }

    /// A broker, with a connection of its own, for a namespace.
    pub(crate) async fn namespace(&self, namespace: &str) -> Result<Broker, Any> {
        Ok(builder(&self.url).namespace(namespace).connect().await?)
    }

    async fn info(&mut self, section: &str) -> Result<String, Any> {
        Ok(redis::cmd("INFO").arg(section).query_async(&mut self.raw).await?)
    }

    /// A number of INFO.
    async fn number(&mut self, section: &str, field: &str) -> Result<f64, Any> {
        let info = self.info(section).await?;
        let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(line.ok_or("INFO has no such field")?.trim().parse()?)
    }

    /// How often these commands were called.
    async fn calls(&mut self, commands: &[&str]) -> Result<f64, Any> {
        let stats = self.info("commandstats").await?;
        let calls = stats.lines().filter_map(|line| {
            let (name, of) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls = of.split(',').next()?;
            commands.contains(&name).then(|| calls.parse::<f64>().ok())?
        });
        Ok(calls.sum())
    }

    pub(crate) async fn version(&mut self) -> Result<String, Any> {
        let info = self.info("server").await?;
        let of = |field: &str| info.lines().find_map(|line| line.strip_prefix(field));
        Ok(match (of("valkey_version:"), of("redis_version:")) {
            (Some(version), _) => format!("Valkey {version}"),
            (_, version) => format!("Redis {}", version.unwrap_or("of unknown version")),
        })
    }

    /// What it has used of the CPU, user and system, in us.
    pub(crate) async fn cpu(&mut self) -> Result<f64, Any> {
        let user = self.number("cpu", "used_cpu_user").await?;
        Ok((user + self.number("cpu", "used_cpu_sys").await?) * 1e6)
    }

    /// The scripts that were run.
    pub(crate) async fn scripts(&mut self) -> Result<f64, Any> {
        self.calls(&["evalsha"]).await
    }

    /// The commands that clients have sent: those of a worker, without what its scripts call.
    pub(crate) async fn commands(&mut self) -> Result<f64, Any> {
        let sent =
            ["evalsha", "evalsha_ro", "bzpopmin", "ping", "hello", "client|setinfo", "script|load"];
        self.calls(&sent).await
    }

    pub(crate) async fn memory(&mut self) -> Result<f64, Any> {
        self.number("memory", "used_memory").await
    }

    pub(crate) async fn flush(&mut self) -> Result<(), Any> {
        redis::cmd("FLUSHALL").exec_async(&mut self.raw).await?;
        // What was unlinked is freed by another thread.
        while self.number("memory", "lazyfree_pending_objects").await? > 0.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// How long scripts took since the last question, in ms, the longest first; those of less than
    /// 1 ms are not among them.
    pub(crate) async fn long_scripts(&mut self) -> Result<Vec<f64>, Any> {
        let entries: Vec<Vec<redis::Value>> =
            redis::cmd("SLOWLOG").arg("GET").arg(-1).query_async(&mut self.raw).await?;
        redis::cmd("SLOWLOG").arg("RESET").exec_async(&mut self.raw).await?;
        let mut longest = Vec::new();
        for entry in entries {
            let command: Vec<Vec<u8>> = redis::from_redis_value(entry[3].clone())?;
            if command.first().is_some_and(|name| name.starts_with(b"EVAL")) {
                let us: f64 = redis::from_redis_value(entry[2].clone())?;
                longest.push(us / 1000.0);
            }
        }
        longest.sort_by(|a, b| b.total_cmp(a));
        Ok(longest)
    }
}

fn builder(url: &str) -> BrokerBuilder {
    let facet = |message: &serde_json::Value| message["f"].as_str().map(str::to_owned);
    Broker::builder()
        .redis(url)
        .facet(move |message| facet(message).unwrap_or_default())
        .topic(|_| "t")
        .deadline(Duration::from_secs(60))
}

pub(crate) async fn connect(url: &str) -> Result<MultiplexedConnection, Any> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await?)
}
