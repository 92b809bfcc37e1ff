//! A network that can be cut: each process in a network namespace of its own, joined to this one's by a virtual wire and a bridge.
//!
//! Everything lives in namespaces of this process and of those that it starts, so that nothing stays behind when they end, however
//! they end. Needs root, and the programs `ip`, `tc`, `unshare`, `nsenter` and `nft`.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::process::Command;

use super::Failure;

/// Why there is no network to cut here; `None`: there can be one.
pub(crate) fn what_is_missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("cutting the network needs root".to_owned());
    }
    for program in ["ip", "tc", "unshare", "nsenter", "nft"] {
        let found = std::process::Command::new(program).arg("-V").output();
        if found.is_err() {
            return Some(format!(
                "cutting the network needs the program {program} (packages iproute2, util-linux, nftables)"
            ));
        }
    }
    // All of it once: a kernel may lack any part.
    let said = what_fails(TRIAL)?;
    Some(format!(
        "cutting the network needs a kernel with network namespaces, bridges, veth and nftables: {said}"
    ))
}

/// Why packets cannot be held up here, where the network can be cut; `None`: they can.
pub(crate) fn why_no_delay() -> Option<String> {
    let said = what_fails(DELAY_TRIAL)?;
    Some(format!("packets are not delayed: that needs the kernel's netem (module sch_netem): {said}"))
}

/// Why packets cannot be slowed down here, where the network can be cut; `None`: they can.
pub(crate) fn why_no_throttle() -> Option<String> {
    let said = what_fails(THROTTLE_TRIAL)?;
    Some(format!("the network is not slowed down: that needs the kernel's tbf (module sch_tbf): {said}"))
}

/// What a line for the shell says when it fails, in a network namespace that is gone at once; `None`: it succeeds.
fn what_fails(line: &str) -> Option<String> {
    match std::process::Command::new("unshare").args(["--net", "--", "sh", "-c", line]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// What happens to the packets that a process sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hindrance {
    /// Each waits for about so many milliseconds, more or less by half: they overtake each other.
    Delay(u32),
    /// So many kilobits pass in a second; the others queue for a while, and are lost then.
    Throttle(u32),
}

impl Hindrance {
    /// The words of `tc` for it.
    fn discipline(self) -> String {
        match self {
            Self::Delay(ms) => format!("netem limit {PACKETS_MAX} delay {ms}ms {}ms", ms / 2),
            Self::Throttle(kbit) => format!("tbf rate {kbit}kbit burst 16kb latency 500ms"),
        }
    }
}

/// Becomes this very program again in a network namespace of its own; only returns if that fails.
pub(crate) fn enter(flag: &str) -> Failure {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error.into(),
    };
    let mut command = std::process::Command::new("unshare");
    command.args(["--net", "--"]).arg(program).args(std::env::args_os().skip(1)).arg(flag);
    format!("unshare: {}", command.exec()).into()
}

/// The bridge in this process' namespace that all wires end at.
#[derive(Debug)]
pub(crate) struct Network {
    wires: AtomicU32,
    addresses: AtomicU32,
}

impl Network {
    /// Sets up the bridge; for a process that has [entered](enter) its own namespace.
    pub(crate) async fn new() -> Result<Self, Failure> {
        run("ip", &["link", "set", "lo", "up"]).await?;
        run("ip", &["link", "add", BRIDGE, "type", "bridge"]).await?;
        run("ip", &["addr", "add", &format!("{OWN}/{PREFIX}"), "dev", BRIDGE]).await?;
        run("ip", &["link", "set", BRIDGE, "up"]).await?;
        Ok(Self { wires: AtomicU32::new(0), addresses: AtomicU32::new(0) })
    }

    /// Where a process of this namespace listens.
    pub(crate) fn own_address(&self) -> String {
        SocketAddrV4::new(OWN, 0).to_string()
    }

    /// An address that no process has had.
    pub(crate) fn address(&self) -> SocketAddrV4 {
        let number = self.addresses.fetch_add(1, Ordering::Relaxed);
        let [first, second, ..] = OWN.octets();
        let [.., high, low] = (FIRST + number).to_be_bytes();
        SocketAddrV4::new(Ipv4Addr::new(first, second, high, low), 0)
    }

    /// A command that starts a program in a namespace of its own: it says [`READY`] there, and waits for a line of input.
    pub(crate) fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new("unshare");
        let script = format!("echo {READY} && read -r go && exec \"$@\"");
        command.args(["--net", "--", "sh", "-c", &script, "sh"]).arg(program);
        command
    }

    /// Joins the namespace of a process that waits to this one's.
    pub(crate) async fn join(&self, process: u32, address: Ipv4Addr) -> Result<(), Failure> {
        let wire = format!("wire{}", self.wires.fetch_add(1, Ordering::Relaxed));
        let process = process.to_string();
        // One that starts again at an address is found by those that know it: the hardware address goes with it.
        let [a, b, c, d] = address.octets();
        let hardware = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        let peer = ["peer", "name", WIRE, "address", &hardware, "netns", &process];
        run("ip", &[&["link", "add", &wire, "type", "veth"], &peer[..]].concat()).await?;
        run("ip", &["link", "set", &wire, "master", BRIDGE, "up"]).await?;
        let lines = format!(
            "ip link set lo up && ip addr add {address}/{PREFIX} dev {WIRE} && ip link set {WIRE} up"
        );
        run("nsenter", &["-t", &process, "-n", "sh", "-c", &lines]).await
    }

    /// Drops so many of a hundred of the packets that come to a process from these addresses; from all if there are none.
    pub(crate) async fn drop_packets(
        &self,
        process: u32,
        from: &[Ipv4Addr],
        percent: u8,
    ) -> Result<(), Failure> {
        let mut rules = "add table ip chaos; add chain ip chaos in { type filter hook input priority 0; }; \
                         flush chain ip chaos in"
            .to_owned();
        let verdict = if percent >= 100 {
            "drop".to_owned()
        } else {
            format!("numgen random mod 100 < {percent} drop")
        };
        if from.is_empty() {
            rules.push_str(&format!("; add rule ip chaos in {verdict}"));
        }
        for address in from {
            rules.push_str(&format!("; add rule ip chaos in ip saddr {address} {verdict}"));
        }
        run_inside(process, &["nft", &rules]).await
    }

    /// Holds up what a process sends.
    pub(crate) async fn hinder(&self, process: u32, hindrance: Hindrance) -> Result<(), Failure> {
        let line = format!("tc qdisc replace dev {WIRE} root {}", hindrance.discipline());
        run_inside(process, &["sh", "-c", &line]).await
    }

    /// Lets all packets of a process through again.
    pub(crate) async fn mend(&self, process: u32) -> Result<(), Failure> {
        // A virtual wire has no queue of its own; where nothing was put on it, there is nothing to be taken away.
        let line = format!(
            "nft 'add table ip chaos; delete table ip chaos' && (tc qdisc del dev {WIRE} root 2>/dev/null || true)"
        );
        run_inside(process, &["sh", "-c", &line]).await
    }
}

async fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let output = Command::new(program).args(arguments).output().await;
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), said.trim()).into())
}

/// Runs a program in the namespace of a process; of one that has ended nothing is left to be changed.
async fn run_inside(process: u32, command: &[&str]) -> Result<(), Failure> {
    let result = run("nsenter", &[&["-t", &process.to_string(), "-n"], command].concat()).await;
    // It is not another process of the same number: whoever calls this has started it, and has not waited for it.
    let has_ended = !std::path::Path::new(&format!("/proc/{process}/ns/net")).exists();
    if has_ended { Ok(()) } else { result }
}

/// One of everything that a network here is made of.
const TRIAL: &str = "ip link set lo up && ip link add bridge0 type bridge && ip link add wire0 type veth peer name wire1 \
    && ip link set wire0 master bridge0 && nft 'add table ip chaos; add chain ip chaos in { type filter hook input priority 0; }; \
    add rule ip chaos in ip saddr 10.77.0.2 numgen random mod 100 < 5 drop'";
const DELAY_TRIAL: &str = "ip link set lo up && tc qdisc replace dev lo root netem delay 1ms";
const THROTTLE_TRIAL: &str =
    "ip link set lo up && tc qdisc replace dev lo root tbf rate 1mbit burst 16kb latency 500ms";
/// Packets that can be held up at a time.
const PACKETS_MAX: u32 = 100_000;
/// The end of its wire in the namespace of a process.
const WIRE: &str = "eth0";
/// What a process says when it waits to be joined.
pub(crate) const READY: &str = "ready";
const BRIDGE: &str = "chaos0";
/// The address of the bridge; a process that is started gets one of the same network.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PREFIX: u8 = 16;
const FIRST: u32 = 2;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{SocketAddr, TcpStream};
    use std::process::Stdio;
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::time::Instant;

    use super::*;

    /// Packets between this namespace and that of a process are held up and dropped, and come through when the network is mended.
    async fn play_tricks() {
        let network = Network::new().await.expect("a bridge");
        let address = *network.address().ip();
        let mut command = network.command("sleep".as_ref());
        command.arg("1000").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("it starts");
        let id = child.id().expect("it runs");
        let ready = BufReader::new(child.stdout.take().expect("a pipe")).lines().next_line().await;
        assert_eq!(ready.expect("it says something").as_deref(), Some(READY));
        network.join(id, address).await.expect("a wire");
        child.stdin.take().expect("a pipe").write_all(b"go\n").await.expect("it reads");
        assert!(refusal(address).is_some(), "they are joined");

        if why_no_delay().is_none() {
            network.hinder(id, Hindrance::Delay(800)).await.expect("netem");
            let took = refusal(address).expect("a late one");
            assert!(took >= Duration::from_millis(400), "at least half of what was asked for: {took:?}");
        }
        if why_no_throttle().is_none() {
            network.hinder(id, Hindrance::Throttle(1000)).await.expect("tbf");
            assert!(refusal(address).is_some(), "one packet fits");
        }
        network.drop_packets(id, &[OWN], 100).await.expect("nftables");
        assert_eq!(refusal(address), None, "all is dropped");
        network.mend(id).await.expect("tc and nftables");
        assert!(refusal(address).is_some(), "it is mended");

        child.start_kill().expect("it runs");
        while std::path::Path::new(&format!("/proc/{id}/ns/net")).exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        network.drop_packets(id, &[OWN], 100).await.expect("nothing to be done for one that was killed");
        network.hinder(id, Hindrance::Throttle(1000)).await.expect("nothing to be done");
        network.mend(id).await.expect("nothing to be done");
    }

    /// How long it takes until an attempt to connect is refused, as nobody listens; `None`: nothing came back, however often it was tried.
    fn refusal(address: Ipv4Addr) -> Option<Duration> {
        let to = SocketAddr::from((address, 1));
        (0..TRIES_MAX).find_map(|_| {
            let begin = Instant::now();
            let error = TcpStream::connect_timeout(&to, TRY_TIME_MAX).expect_err("nobody listens there");
            (error.kind() == ErrorKind::ConnectionRefused).then(|| begin.elapsed())
        })
    }

    /// Runs a test of this program again, in a network namespace of its own; `true`: that is where it runs already.
    fn is_apart(test: &str) -> bool {
        if std::env::var_os(APART).is_some() {
            return true;
        }
        let program = std::env::current_exe().expect("it has a path");
        let mut again = std::process::Command::new("unshare");
        again.args(["--net", "--"]).arg(program).args([test, "--exact", "--nocapture"]).env(APART, "1");
        let output = again.output().expect("unshare is there");
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        false
    }

    #[tokio::test]
    async fn packets_are_dropped_where_the_network_can_be_cut() {
        let test = "demo::network::tests::packets_are_dropped_where_the_network_can_be_cut";
        if what_is_missing().is_none() && is_apart(test) {
            play_tricks().await;
        }
    }

    mod in_guest {
        use super::*;

        #[tokio::test]
        async fn packets_are_held_up_too() {
            if is_apart("demo::network::tests::in_guest::packets_are_held_up_too") {
                assert_eq!((what_is_missing(), why_no_delay(), why_no_throttle()), (None, None, None));
                play_tricks().await;
            }
        }
    }

    /// Set in the namespace of a test.
    const APART: &str = "EPICSERVER_TEST_APART";
    const TRIES_MAX: u32 = 3;
    const TRY_TIME_MAX: Duration = Duration::from_secs(2);
}
