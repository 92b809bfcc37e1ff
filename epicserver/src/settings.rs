//! Settings of a process: defaults < `epicserver.toml` < environment < flags.
//!
//! Every problem is collected and named together with what is allowed, so that one start tells all that is wrong.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use epicserver_runtime::membership::DampingLimits;
use epicserver_runtime::{CORES_MAX, TransportThreads, Wait};

/// What a process was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Execution threads; `None`: one for each processor.
    pub cores: Option<u16>,
    /// How a core waits when it has nothing to do.
    pub wait: Wait,
    /// Which thread drives the transport.
    pub transport_threads: TransportThreads,
    /// Where this process listens for its peers; needed when there are any.
    pub listen: Option<String>,
    /// The addresses of all other processes of a cluster whose members never change, and which keeps its state in memory.
    pub peers: Vec<String>,
    /// What carries frames between processes.
    pub transport: TransportKind,
    /// The RDMA device to use; `None`: the one that serves the listening address.
    pub rdma_device: Option<RdmaDevice>,
    /// How much a TIPC network favours the packets of this process where it is congested.
    pub tipc_importance: TipcImportance,
    /// Where the cluster's state lives.
    pub data_dir: DataDir,
    /// Addresses of processes of the cluster on other machines, or names of hosts that may stand for several; one that answers is enough.
    pub seed: Vec<String>,
    /// The file with cluster id and secret; without one that of the data directory is used.
    pub secret_file: Option<PathBuf>,
    /// Whether `main` runs here, or this process only serves objects.
    pub role: Role,
    /// What objects in memory may take, in all cores together, in bytes; `None`: no bound.
    pub memory_budget: Option<u64>,
    /// A node that is a member for less than this, and does not leave in order, has had a short life: after several, objects stay where they are until it is calm. Zero:
    /// objects move to each node that joins, however often they come and go.
    pub short_life: Duration,
    /// How much is logged.
    pub log: tracing::Level,
}

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs the body of `main`, and serves objects meanwhile.
    App,
    /// Serves objects until it is stopped.
    Node,
}

/// Where the cluster's state lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDir {
    /// In `./.epicserver/` and the name of the program. A process that is told of seeds or peers belongs to their cluster, and keeps
    /// nothing here.
    Usual,
    /// In memory, for as long as the process runs; nobody can join.
    Nowhere,
    /// In this folder.
    At(PathBuf),
}

/// Which RDMA device carries frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaDevice {
    /// Its name.
    pub name: String,
    /// One of its ports, from 1.
    pub port: Option<u8>,
    /// An entry of the port's address table.
    pub gid_index: Option<u8>,
}

impl std::str::FromStr for RdmaDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || {
            format!("{text:?} is no device: use NAME, NAME:PORT or NAME:PORT:GID_INDEX, such as mlx5_0:1:3")
        };
        let mut parts = text.split(':');
        let name = parts.next().filter(|name| !name.is_empty()).ok_or_else(problem)?.to_owned();
        let mut number = || parts.next().map(str::parse).transpose().map_err(|_| problem());
        let (port, gid_index) = (number()?, number()?);
        if parts.next().is_some() || port == Some(0) {
            return Err(problem());
        }
        Ok(Self { name, port, gid_index })
    }
}

/// How much a TIPC network favours packets where it is congested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TipcImportance {
    /// As those of sockets that say nothing.
    Low,
    /// Before those.
    Medium,
    /// Before most.
    High,
    /// Before all.
    Critical,
}

impl std::str::FromStr for TipcImportance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "low" => Ok(Self::Low),
            "medium" => Ok(Self::Medium),
            "high" => Ok(Self::High),
            "critical" => Ok(Self::Critical),
            _ => Err(format!("{text:?} is no importance: use \"low\", \"medium\", \"high\" or \"critical\"")),
        }
    }
}

/// What carries frames between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// TCP.
    Tcp,
    /// Linux TIPC.
    Tipc,
    /// InfiniBand verbs.
    Rdma,
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Tipc => "tipc",
            Self::Rdma => "rdma",
        })
    }
}

impl std::str::FromStr for TransportKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "tipc" => Ok(Self::Tipc),
            "rdma" => Ok(Self::Rdma),
            _ => Err(format!("{text:?} is no transport: use \"tcp\", \"tipc\" or \"rdma\"")),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cores: None,
            wait: Wait::Auto,
            transport_threads: TransportThreads::Auto,
            listen: None,
            peers: Vec::new(),
            transport: TransportKind::Tcp,
            rdma_device: None,
            tipc_importance: TipcImportance::Medium,
            data_dir: DataDir::Usual,
            seed: Vec::new(),
            secret_file: None,
            role: Role::App,
            memory_budget: None,
            short_life: Duration::from_nanos(DampingLimits::default().short_life_ns),
            log: tracing::Level::INFO,
        }
    }
}

/// What is wrong with the settings, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError(pub Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings are wrong:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for SettingsError {}

/// The flags of every program that is started by `#[epicserver::main]`.
#[derive(clap::Parser, Clone, Debug, Default)]
#[command(about = "A program of virtual objects. The flags say how its node runs.", after_help = AFTER_HELP)]
pub struct Flags {
    /// Execution threads [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub cores: Option<String>,
    /// How a core waits for work: auto, spin or park [default: auto]
    #[arg(long, value_name = "HOW")]
    pub wait: Option<String>,
    /// Who drives the transport: inline (the first core), dedicated (a thread of its own) or auto [default: auto]
    #[arg(long, value_name = "WHO")]
    pub threads: Option<String>,
    /// What carries calls between processes: tcp, tipc or rdma [default: tcp]
    #[arg(long, value_name = "WHAT")]
    pub transport: Option<String>,
    /// With --transport rdma: the device, as NAME, NAME:PORT or NAME:PORT:GID_INDEX [default: the one that serves the listening address]
    #[arg(long, value_name = "DEVICE")]
    pub rdma_device: Option<String>,
    /// With --transport tipc: how much the network favours packets of this process where it is congested: low, medium, high or critical
    /// [default: medium]
    #[arg(long, value_name = "HOW-MUCH")]
    pub tipc_importance: Option<String>,
    /// Where to listen for other processes [default: 127.0.0.1:0, a free port of this machine; with --transport tipc an address of
    /// the cluster's service that nobody has]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where the cluster's state lives; processes of one machine that share it find each other. none: in memory, alone
    /// [default: .epicserver/ and the program's name, or none where seeds or peers are given]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<String>,
    /// Addresses of processes of the cluster on other machines, separated by commas; one that answers is enough. With
    /// --secret-file, instead of --data-dir
    #[arg(long, value_name = "ADDRESSES")]
    pub seed: Option<String>,
    /// The addresses of all other processes of a cluster whose members never change, separated by commas. State is in memory
    /// only, and nobody takes over from a process that ends; without --data-dir
    #[arg(long, value_name = "ADDRESSES")]
    pub peers: Option<String>,
    /// The file with cluster id and secret, a copy of that in another machine's data directory
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<String>,
    /// app: run main; node: only serve objects [default: app]
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// What objects in memory may take, such as 512MiB; beyond it the least recently used leave [default: no bound]
    #[arg(long, value_name = "BYTES")]
    pub memory_budget: Option<String>,
    /// A node that is a member for less than so many seconds, and does not stop in order, has had a short life: after several, objects stay where they are until it
    /// is calm; 0: never [default: 20]
    #[arg(long, value_name = "SECONDS")]
    pub short_life: Option<String>,
    /// How much to log: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Another settings file than epicserver.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

const AFTER_HELP: &str = "Each flag can also be given as a key of epicserver.toml (cores = 4) or in the environment \
    (EPICSERVER_CORES=4). Flags win over the environment, the environment over the file. An ADDRESS is ADDRESS:PORT, \
    HOST:PORT, or with --transport tipc tipc:SERVICE:INSTANCE; a host is looked up once, when the program starts.";

impl Settings {
    /// Puts the three sources together.
    ///
    /// # Errors
    /// All problems of all sources at once.
    pub fn load(
        flags: &Flags,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        let mut problems = Vec::new();
        settings.apply_file(flags.config.as_deref(), &mut problems);
        let is_ours = |name: &str| name.starts_with(PREFIX) && !name.starts_with(PREFIX_OF_SIMULATOR);
        let mut environment: Vec<_> = environment.filter(|(name, _)| is_ours(name)).collect();
        environment.sort();
        for (name, value) in environment {
            let key = name[PREFIX.len()..].to_lowercase();
            settings.apply(&key, &value, &format!("environment {name}"), &mut problems);
        }
        for (key, value) in flags.given() {
            let flag = if key == THREADS { "threads".to_owned() } else { key.replace(['_', '.'], "-") };
            settings.apply(key, value, &format!("flag --{flag}"), &mut problems);
        }
        settings.check(&mut problems);
        if problems.is_empty() { Ok(settings) } else { Err(SettingsError(problems)) }
    }

    fn apply_file(&mut self, path: Option<&Path>, problems: &mut Vec<String>) {
        let (path, required) = path.map_or((Path::new(FILE), false), |path| (path, true));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return,
            Err(error) => return problems.push(format!("{}: {error}", path.display())),
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let lines_before = |at| text.bytes().take(at).filter(|byte| *byte == b'\n').count();
                let line = error.span().map(|span| format!("line {}: ", lines_before(span.start) + 1));
                let (line, message) = (line.unwrap_or_default(), error.message());
                return problems.push(format!("{}: {line}{message}", path.display()));
            }
        };
        self.apply_table("", table, path, problems);
    }

    /// Tables within tables spell their keys with a dot: `threads.transport`.
    fn apply_table(&mut self, above: &str, table: toml::Table, path: &Path, problems: &mut Vec<String>) {
        for (key, value) in table {
            let key = format!("{above}{key}");
            let source = format!("{}: {key}", path.display());
            match (value, above) {
                (toml::Value::Table(table), "") => {
                    self.apply_table(&format!("{key}."), table, path, problems)
                }
                (value, _) => match plain(&value) {
                    Some(value) => self.apply(&key, &value, &source, problems),
                    None => problems.push(format!("{source}: give a text, a number or a list of texts")),
                },
            }
        }
    }

    fn apply(&mut self, key: &str, value: &str, source: &str, problems: &mut Vec<String>) {
        if let Err(problem) = self.set(key, value) {
            problems.push(format!("{source}: {problem}"));
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "cores" => {
                let cores = value.parse().ok().filter(|cores| (1..=CORES_MAX).contains(cores));
                self.cores = Some(
                    cores.ok_or_else(|| format!("{value:?} is no number of cores: use 1 to {CORES_MAX}"))?,
                );
            }
            "wait" => self.wait = value.parse()?,
            THREADS | "threads_transport" => self.transport_threads = value.parse()?,
            "listen" => self.listen = Some(address(value)?),
            "peers" => self.peers = addresses(value)?,
            "seed" => self.seed = addresses(value)?,
            "transport" => self.transport = value.parse()?,
            RDMA_DEVICE | "rdma_device" => self.rdma_device = Some(value.parse()?),
            TIPC_IMPORTANCE | "tipc_importance" => self.tipc_importance = value.parse()?,
            "data_dir" => {
                self.data_dir = match value {
                    "" => return Err("an empty name is no folder: use a folder, or \"none\"".to_owned()),
                    "none" => DataDir::Nowhere,
                    folder => DataDir::At(folder.into()),
                };
            }
            "secret_file" => self.secret_file = Some(value.into()),
            "role" => {
                self.role = match value {
                    "app" => Role::App,
                    "node" => Role::Node,
                    _ => return Err(format!("{value:?} is no role: use \"app\" or \"node\"")),
                };
            }
            MEMORY_BUDGET => self.memory_budget = Some(bytes(value)?),
            SHORT_LIFE_KEY => self.short_life = short_life(value)?,
            "log" => {
                let level = value.parse();
                self.log = level
                    .map_err(|_| format!("{value:?} is no level: use error, warn, info, debug or trace"))?;
            }
            _ => return Err(format!("there is no such setting; there are {KEYS}")),
        }
        Ok(())
    }

    fn check(&self, problems: &mut Vec<String>) {
        if !self.seed.is_empty() && matches!(self.data_dir, DataDir::At(_)) {
            problems.push(
                "a seed and a data directory are given: a seed names a cluster whose data is kept on another machine, so give \
                 secret_file with it instead of data_dir"
                    .to_owned(),
            );
        }
        if !self.peers.is_empty() && matches!(self.data_dir, DataDir::At(_)) {
            problems.push(
                "peers and a data directory are given: a cluster of listed peers keeps its state in memory, so leave data_dir out or \
                 say data_dir = \"none\"; for one that keeps its data leave peers out, and give seed and secret_file on other machines"
                    .to_owned(),
            );
        }
        if !self.peers.is_empty() && self.listen.is_none() {
            problems
                .push("peers are given, but not where to listen: add listen = \"ADDRESS:PORT\"".to_owned());
        }
        let over_tipc = self.transport == TransportKind::Tipc;
        for address in self.listen.iter().chain(&self.peers).chain(&self.seed) {
            if address.starts_with(TIPC_SCHEME) != over_tipc {
                let transport = self.transport;
                let wanted = if over_tipc { TIPC_ADDRESS } else { IP_ADDRESS };
                problems
                    .push(format!("{address:?} is no address of the transport {transport}: use {wanted}"));
            }
        }
        if !self.peers.is_empty() && self.secret_file.is_none() {
            problems.push(
                "peers are given, but no secret: write 64 random hexadecimal digits to a file that only you can read, \
                 such as with `head -c 32 /dev/urandom | xxd -p -c 64`, and name it on all of them: secret_file = \"FILE\""
                    .to_owned(),
            );
        }
    }

    /// The folder of the cluster's state, if there is one.
    pub fn data_folder(&self) -> Option<PathBuf> {
        match &self.data_dir {
            DataDir::At(folder) => Some(folder.clone()),
            DataDir::Usual if self.finds_its_cluster() => None,
            DataDir::Usual if CAN_KEEP && self.seed.is_empty() && self.peers.is_empty() => {
                let program = std::env::current_exe().ok();
                let name = program.as_deref().and_then(Path::file_stem).unwrap_or("program".as_ref());
                Some(Path::new(USUAL_FOLDER).join(name))
            }
            DataDir::Usual | DataDir::Nowhere => None,
        }
    }

    /// Whether the cluster is found on the network, by its secret alone.
    pub(crate) fn finds_its_cluster(&self) -> bool {
        let keeps_data = matches!(self.data_dir, DataDir::At(_));
        self.transport == TransportKind::Tipc
            && self.secret_file.is_some()
            && self.peers.is_empty()
            && !keeps_data
    }

    /// The usual settings of a process whose cluster's state lives in this folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self { data_dir: DataDir::At(folder.to_owned()), ..Self::default() }
    }

    /// The secret in `secret_file`.
    ///
    /// # Errors
    /// If the file cannot be read or holds no secret.
    pub fn secret(&self) -> Result<Option<[u8; 32]>, SettingsError> {
        let Some(path) = &self.secret_file else { return Ok(None) };
        let problem = |text: String| SettingsError(vec![format!("secret_file {}: {text}", path.display())]);
        let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
        parse_secret(text.trim())
            .map(Some)
            .ok_or_else(|| problem("it must hold 64 hexadecimal digits".to_owned()))
    }
}

impl Flags {
    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("cores", &self.cores),
            ("wait", &self.wait),
            (THREADS, &self.threads),
            ("transport", &self.transport),
            (RDMA_DEVICE, &self.rdma_device),
            (TIPC_IMPORTANCE, &self.tipc_importance),
            ("listen", &self.listen),
            ("data_dir", &self.data_dir),
            ("seed", &self.seed),
            ("peers", &self.peers),
            ("secret_file", &self.secret_file),
            ("role", &self.role),
            (MEMORY_BUDGET, &self.memory_budget),
            (SHORT_LIFE_KEY, &self.short_life),
            ("log", &self.log),
        ]
        .into_iter()
        .filter_map(|(key, value)| value.as_deref().map(|value| (key, value)))
    }
}

fn short_life(value: &str) -> Result<Duration, String> {
    let seconds = value.parse().ok().filter(|seconds| *seconds <= SHORT_LIFE_S_MAX);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{value:?} is no time: use seconds, 0 to {SHORT_LIFE_S_MAX}"))
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            items.map(|items| items.join(","))
        }
        _ => None,
    }
}

/// A size in bytes: a whole number above zero, with or without a unit.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let number = digits.trim_end().parse::<u64>().ok().filter(|number| *number > 0);
    let bytes = number.zip(unit).and_then(|(number, unit): (u64, u64)| number.checked_mul(unit));
    bytes.ok_or_else(|| {
        format!("{text:?} is no size: use a whole number of bytes, KiB, MiB, GiB or TiB, such as \"512MiB\"")
    })
}

fn addresses(text: &str) -> Result<Vec<String>, String> {
    text.split(',').filter(|one| !one.is_empty()).map(address).collect()
}

fn address(text: &str) -> Result<String, String> {
    let text = text.trim();
    // What a TIPC address is, its transport knows.
    let is_address = text.starts_with(TIPC_SCHEME) || text.parse::<std::net::SocketAddr>().is_ok();
    if is_address || names_a_host(text) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no address: use {IP_ADDRESS}"))
}

/// Whether this is the name of a host, and a port. Whether the host exists shows when a node starts.
fn names_a_host(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        !label.is_empty() && label.chars().all(is_fine)
    };
    // What ends with a number is an address, and then a wrong one.
    let is_number = |label: &str| label.chars().all(|c| c.is_ascii_digit());
    let last = host.rsplit('.').next().unwrap_or_default();
    host.split('.').all(is_label) && !is_number(last) && port.parse::<u16>().is_ok()
}

fn parse_secret(text: &str) -> Option<[u8; 32]> {
    let mut secret = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in secret.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(secret)
}

/// Whether this build has what a data directory needs.
const CAN_KEEP: bool =
    cfg!(all(feature = "sqlite", any(feature = "tcp", feature = "tipc", feature = "rdma")));
/// The file in a data directory that has the states.
pub const STORE_FILE: &str = "epicserver.sqlite";
/// Where programs keep their state unless they are told otherwise.
pub(crate) const USUAL_FOLDER: &str = ".epicserver";
const TIPC_SCHEME: &str = "tipc:";
const TIPC_ADDRESS: &str = "tipc:SERVICE:INSTANCE, such as tipc:4711:7, or leave it out";
const IP_ADDRESS: &str = "ADDRESS:PORT or HOST:PORT, such as 127.0.0.1:7700";
const PREFIX: &str = "EPICSERVER_";
/// What tests in simulated clusters read, from the same environment.
const PREFIX_OF_SIMULATOR: &str = "EPICSERVER_SIM_";
const FILE: &str = "epicserver.toml";
const THREADS: &str = "threads.transport";
const RDMA_DEVICE: &str = "rdma.device";
const TIPC_IMPORTANCE: &str = "tipc.importance";
const MEMORY_BUDGET: &str = "memory_budget";
const KEYS: &str = "cores, wait, threads.transport, transport, rdma.device, tipc.importance, listen, data_dir, seed, peers, secret_file, role, \
                    memory_budget, short_life, log";
const SHORT_LIFE_KEY: &str = "short_life";
const SHORT_LIFE_S_MAX: u64 = 3600;

#[cfg(test)]
mod tests;
