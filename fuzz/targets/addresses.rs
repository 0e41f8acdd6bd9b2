//! URLs, and layouts: whatever the text is, and what is right.
#![no_main]

use std::net::Ipv6Addr;

use arbitrary::Arbitrary;
use fairlane::fuzzing::{Server, address, layout};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Url(Start, &'a str),
    /// One that says of each part what it should.
    Named(Named<'a>),
    Layout(&'a str),
    Counts(u32, u64),
}

#[derive(Debug, Arbitrary)]
enum Start {
    Nothing,
    Server,
    Socket,
    Cluster,
    Sentinel,
}

#[derive(Debug, Arbitrary)]
struct Named<'a> {
    way: Way<'a>,
    user: &'a str,
    password: &'a str,
    first: Host<'a>,
    others: Vec<Host<'a>>,
}

#[derive(Debug, Arbitrary)]
enum Way<'a> {
    Server { database: u16 },
    Cluster,
    Sentinel { service: Vec<u8>, database: u16, user: &'a str, password: &'a str },
}

#[derive(Debug, Arbitrary)]
struct Host<'a> {
    at: At<'a>,
    port: Option<u16>,
}

#[derive(Debug, Arbitrary)]
enum At<'a> {
    Name(&'a [u8]),
    V6([u16; 8]),
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Url(start, rest) => any(start, rest),
    Input::Named(named) => written(&named),
    Input::Layout(text) => {
        if let Some((written, partitions)) = layout(text) {
            assert_eq!(written, text);
            assert!((1..=256).contains(&partitions));
        }
    }
    Input::Counts(number, partitions) => {
        let written = |partitions| match partitions {
            1 => number.to_string(),
            several => format!("{number} {several}"),
        };
        let good = number == 1 && (1..=256).contains(&partitions);
        let text = written(partitions);
        assert_eq!(layout(&text), good.then_some((text, partitions)));
    }
});

/// What is read names only hosts that are in the text, and what is not is not repeated.
fn any(start: Start, rest: &str) {
    let start = match start {
        Start::Nothing => "",
        Start::Server => "redis://",
        Start::Socket => "unix:///",
        Start::Cluster => "redis-cluster://",
        Start::Sentinel => "redis-sentinel://",
    };
    let url = format!("{start}{rest}");
    if let Ok((servers, _)) = address(&url) {
        assert!(!servers.is_empty());
        for Server { host, .. } in servers.iter().filter(|server| server.port > 0) {
            assert!(names(&url, host), "{host}");
        }
    }
    // As a password that cannot be told from other words.
    let secret = "xyzzy-7c1f";
    if let Err(said) = address(&format!("{start}:{secret}@{rest}")) {
        assert!(!said.contains(secret), "{said}");
    }
}

/// Tabs and ends of lines are no part of a URL, and what is not ASCII is another way to write bytes.
fn names(url: &str, host: &str) -> bool {
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        let is = |part: &str| part.parse() == Ok(address);
        return clean(url).split(['[', ']']).any(is);
    }
    let (url, host) = (decoded(&clean(url)), decoded(host));
    url.windows(host.len()).any(|part| *part == host)
}

fn clean(text: &str) -> String {
    text.chars().filter(|letter| !['\t', '\n', '\r'].contains(letter)).collect()
}

fn written(named: &Named<'_>) {
    let hosts: Vec<_> = match named.way {
        Way::Server { .. } => vec![&named.first],
        _ => [&named.first].into_iter().chain(&named.others).collect(),
    };
    let places = hosts.iter().map(|host| host.text()).collect::<Vec<_>>().join(",");
    let user = match (named.user, named.password) {
        ("", "") => String::new(),
        (user, "") => format!("{}@", escaped(user)),
        (user, password) => format!("{}:{}@", escaped(user), escaped(password)),
    };
    let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let server = |host: String, port, database| Server {
        host,
        port,
        user: said(named.user),
        password: said(named.password),
        database,
    };
    let all = |port, database| {
        let one = |host: &&Host<'_>| server(host.name(), host.port.unwrap_or(port), database);
        hosts.iter().map(one).collect::<Vec<_>>()
    };
    let (url, expected) = match &named.way {
        Way::Server { database } => {
            (format!("redis://{user}{places}/{database}"), (all(6379, (*database).into()), None))
        }
        Way::Cluster => (format!("redis-cluster://{user}{places}"), (all(6379, 0), None)),
        Way::Sentinel { service, database, user: own, password } => {
            let service = format!("s{}", name(service));
            let query =
                format!("sentinel_user={}&sentinel_pass={}", in_query(own), in_query(password));
            let url = format!("redis-sentinel://{user}{places}/{service}/{database}?{query}");
            let mut sentinels = all(26379, 0);
            for sentinel in &mut sentinels {
                sentinel.password = said(password);
                sentinel.user = said(own).filter(|_| !password.is_empty());
            }
            let primary = server(String::new(), 6379, (*database).into());
            (url, (sentinels, Some((service, primary))))
        }
    };
    assert_eq!(address(&url), Ok(expected), "{url}");
}

impl Host<'_> {
    fn name(&self) -> String {
        match &self.at {
            At::Name(letters) => format!("h{}", name(letters)),
            At::V6(parts) => Ipv6Addr::from(wildcard_is_one(*parts)).to_string(),
        }
    }

    fn text(&self) -> String {
        let name = match self.at {
            At::Name(_) => self.name(),
            At::V6(_) => format!("[{}]", self.name()),
        };
        self.port.map_or(name.clone(), |port| format!("{name}:{port}"))
    }
}

/// Nobody can be reached at `::`.
fn wildcard_is_one(mut parts: [u16; 8]) -> [u16; 8] {
    if parts == [0; 8] {
        parts[7] = 1;
    }
    parts
}

fn name(letters: &[u8]) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    letters.iter().map(|letter| char::from(LETTERS[usize::from(*letter) % LETTERS.len()])).collect()
}

/// As a user or a password has to be written.
fn escaped(text: &str) -> String {
    but(text, b"")
}

/// As a value in a query may be written: with what would end other parts of a URL.
fn in_query(text: &str) -> String {
    but(text, b"/?:@=,[]")
}

fn but(text: &str, these: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || these.contains(&byte);
    let written = |byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(written).collect()
}

fn decoded(text: &str) -> Vec<u8> {
    let (mut decoded, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let byte = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = byte.filter(|_| first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok());
        decoded.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}
