//! Where Redis is: what a URL says.

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::Invalid;

/// One server, or how the one that is meant is found.
#[derive(Debug)]
pub(crate) enum Address {
    Server(ConnectionInfo),
    /// Some nodes of a cluster, which know the others.
    #[cfg(feature = "cluster")]
    Cluster(Vec<ConnectionInfo>),
    /// Those that know which server is the primary of a service.
    #[cfg(feature = "sentinel")]
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        service: String,
        /// All that there is to know of the primary, but for where it is.
        primary: ConnectionInfo,
    },
}

const FORM: &str =
    "its form is redis://user:password@host:port/database, or unix:///path?db=0&user=..&pass=..";
#[cfg(feature = "cluster")]
const CLUSTER_FORM: &str = "its form is redis-cluster://user:password@host:port,host:port";
#[cfg(feature = "sentinel")]
const SENTINEL_FORM: &str =
    "its form is redis-sentinel://user:password@host:port,host:port/service/database";

impl Address {
    /// Reads a URL. No error repeats it, since it may have a password.
    pub(crate) fn parse(url: &str) -> Result<Self, Invalid> {
        let (scheme, _rest) = url.split_once("://").unwrap_or(("", url));
        if scheme.starts_with("rediss") && !cfg!(feature = "tls") {
            return Err(Invalid::Url { problem: "TLS (rediss) needs the cargo feature `tls`" });
        }
        match scheme {
            #[cfg(feature = "cluster")]
            "redis-cluster" | "rediss-cluster" => Several::of(scheme, _rest)
                .and_then(|several| several.cluster())
                .ok_or(Invalid::Url { problem: CLUSTER_FORM }),
            #[cfg(feature = "sentinel")]
            "redis-sentinel" | "rediss-sentinel" => Several::of(scheme, _rest)
                .and_then(|several| several.sentinel())
                .ok_or(Invalid::Url { problem: SENTINEL_FORM }),
            #[cfg(not(feature = "cluster"))]
            "redis-cluster" | "rediss-cluster" => {
                Err(Invalid::Url { problem: "a cluster needs the cargo feature `cluster`" })
            }
            #[cfg(not(feature = "sentinel"))]
            "redis-sentinel" | "rediss-sentinel" => {
                Err(Invalid::Url { problem: "Sentinel needs the cargo feature `sentinel`" })
            }
            _ => url
                .into_connection_info()
                .map(Self::Server)
                .map_err(|_| Invalid::Url { problem: FORM }),
        }
    }
}

/// A URL that names several hosts.
#[cfg(any(feature = "cluster", feature = "sentinel"))]
struct Several<'a> {
    /// Of a URL for one of them.
    scheme: &'static str,
    /// With the `@` behind it, or nothing.
    user: &'a str,
    hosts: Vec<&'a str>,
    /// Without the first slash.
    path: &'a str,
    query: &'a str,
    /// With its `#`, or nothing.
    fragment: &'a str,
}

#[cfg(any(feature = "cluster", feature = "sentinel"))]
impl<'a> Several<'a> {
    fn of(scheme: &str, rest: &'a str) -> Option<Self> {
        let (rest, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let hosts: Vec<_> = hosts.split(',').collect();
        let scheme = if scheme.starts_with("rediss") { "rediss" } else { "redis" };
        let named = hosts.iter().all(|host| !host.is_empty());
        named.then_some(Self { scheme, user, hosts, path, query, fragment })
    }

    /// One of the hosts.
    fn one(&self, user: &str, host: &str, path: &str) -> Option<ConnectionInfo> {
        let Self { scheme, fragment, .. } = self;
        format!("{scheme}://{user}{host}/{path}{fragment}").into_connection_info().ok()
    }

    #[cfg(feature = "cluster")]
    fn cluster(&self) -> Option<Address> {
        // A cluster has one database.
        if !self.path.is_empty() || !self.query.is_empty() {
            return None;
        }
        let nodes = self.hosts.iter().map(|host| self.one(self.user, host, ""));
        nodes.collect::<Option<_>>().map(Address::Cluster)
    }

    #[cfg(feature = "sentinel")]
    fn sentinel(&self) -> Option<Address> {
        let (service, database) = self.path.split_once('/').unwrap_or((self.path, ""));
        let (mut user, mut password) = (String::new(), String::new());
        let query = redis::parse_redis_url(&format!("redis://sentinel?{}", self.query))?;
        for (said, text) in query.query_pairs() {
            match &*said {
                "sentinel_user" => user = text.into(),
                "sentinel_pass" => password = text.into(),
                _ => return None,
            }
        }
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if service.is_empty() || !service.bytes().all(named) {
            return None;
        }
        let sentinels = self.hosts.iter().map(|host| {
            // Where no port is said, that of Sentinel.
            let port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let host = if port { (*host).to_owned() } else { format!("{host}:26379") };
            let sentinel = self.one("", &host, "")?;
            let mut own = sentinel.redis_settings().clone();
            if !password.is_empty() {
                own = own.set_password(&password);
                own = if user.is_empty() { own } else { own.set_username(&user) };
            }
            Some(sentinel.set_redis_settings(own))
        });
        Some(Address::Sentinel {
            sentinels: sentinels.collect::<Option<_>>()?,
            service: service.to_owned(),
            primary: self.one(self.user, "primary", database)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_without_its_feature_names_the_feature() {
        let tls = Address::parse("rediss://localhost");
        match cfg!(feature = "tls") {
            true => assert!(tls.is_ok()),
            false => assert!(tls.err().unwrap().to_string().contains("feature `tls`")),
        }
    }

    #[test]
    fn a_url_that_cannot_be_read_says_its_form() {
        for url in ["", "localhost", "http://localhost", "redis://localhost/seven"] {
            let error = Address::parse(url).err().unwrap().to_string();
            assert!(error.contains("its form is redis://"), "{url}: {error}");
        }
    }

    #[test]
    fn an_address_does_not_show_its_password() {
        let mut urls = vec!["redis://me:hunter2@a", "unix:///a?user=me&pass=hunter2"];
        if cfg!(feature = "cluster") {
            urls.push("redis-cluster://me:hunter2@a,b");
        }
        if cfg!(feature = "sentinel") {
            urls.push("redis-sentinel://me:hunter2@a/main?sentinel_pass=hunter2");
        }
        for url in urls {
            let shown = format!("{:#?}", Address::parse(url).unwrap());
            assert!(shown.contains("me") && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn a_url_of_a_cluster_names_some_of_its_nodes() {
        let Ok(Address::Cluster(nodes)) = Address::parse("redis-cluster://me:secret@a:1,b:2,c")
        else {
            panic!("not read");
        };
        let addresses: Vec<_> = nodes.iter().map(|node| node.addr().to_string()).collect();
        assert_eq!(addresses, ["a:1", "b:2", "c:6379"]);
        assert!(nodes.iter().all(|node| node.redis_settings().password() == Some("secret")));
        for url in ["redis-cluster://", "redis-cluster://a,,b", "redis-cluster://a/1"] {
            let error = Address::parse(url).err().unwrap().to_string();
            assert!(error.contains("redis-cluster://"), "{url}: {error}");
        }
    }

    #[cfg(feature = "sentinel")]
    #[test]
    fn a_url_of_sentinels_names_the_service_and_has_two_kinds_of_credentials() {
        let url = "redis-sentinel://me:secret@a:1,b/main/2?sentinel_user=s&sentinel_pass=other";
        let Ok(Address::Sentinel { sentinels, service, primary }) = Address::parse(url) else {
            panic!("not read");
        };
        let addresses: Vec<_> = sentinels.iter().map(|node| node.addr().to_string()).collect();
        assert_eq!((addresses, &*service), (vec!["a:1".into(), "b:26379".into()], "main"));
        assert_eq!(sentinels[0].redis_settings().password(), Some("other"));
        assert_eq!(primary.redis_settings().password(), Some("secret"));
        assert_eq!(primary.redis_settings().db(), 2);
        // They may have what would end a part of a URL.
        let url = "redis-sentinel://a/main?sentinel_user=evil/0?&sentinel_pass=1/b@c%26";
        let Ok(Address::Sentinel { sentinels, .. }) = Address::parse(url) else {
            panic!("not read");
        };
        let own = sentinels[0].redis_settings();
        assert_eq!(sentinels[0].addr().to_string(), "a:26379");
        assert_eq!((own.username(), own.password()), (Some("evil/0?"), Some("1/b@c&")));
        for url in ["redis-sentinel://a", "redis-sentinel://a/b c", "redis-sentinel://a/b?c=d"] {
            let error = Address::parse(url).err().unwrap().to_string();
            assert!(error.contains("redis-sentinel://"), "{url}: {error}");
        }
    }
}
