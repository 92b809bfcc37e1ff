//! Three machines on one wire that find each other over TIPC: guests of `cargo ci vm --guests 3`, each of which runs the same test and
//! plays the part of its number.
//!
//! The first founds the cluster, keeps its data and plays; the others serve the objects. What the others are to do the first one
//! tells them by a TCP connection, which is no part of what is tested.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::play::{Game, Outcome};
use crate::world::{World, play_on, start_game, start_with_secret};

/// What needs three kernels with TIPC on one wire.
mod in_three_guests {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_faulty_wire_and_a_death_lose_nothing_that_was_acknowledged() {
        let part = std::env::var("VM_GUEST").expect("a guest of several knows its number");
        match part.as_str() {
            "1" => super::found_and_play().await,
            _ => super::serve(part.parse().expect("a number")).await,
        }
    }
}

async fn found_and_play() {
    let (world, _keeper) = World::found_over("machines", "dedicated", "tipc").await;
    let listener = TcpListener::bind((FIRST, PORT)).await.expect("the address of the first guest");
    let secret = std::fs::read(world.folder().join("cluster.secret")).expect("the founder's");
    let one = Machine::take_in(&listener, &secret).await;
    let other = Machine::take_in(&listener, &secret).await;
    world.shared_by(&[one.id, other.id]).await;
    let game = start_game(&world, 10);
    let mut cluster = Cluster { world, game, one, other };
    cluster.is_whole().await;
    cluster.play().await;

    cluster.loses_packets().await;
    cluster.meets_a_twin().await;
    cluster.is_parted().await;
    cluster.has_no_bearer().await;
    cluster.is_cut_off().await;

    let Cluster { world, game, one, other } = cluster;
    game.excuse(&world.view(), &[one.id, other.id].into());
    let id = other.id;
    one.order(DIE).await;
    world.owned_by(id).await;
    play_on(&game, LEVELS).await;
    let Outcome { findings, failed, .. } = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, failed), (0, 0, 0), "{findings:?}");
    assert!(findings.acknowledged_saves > 0, "{findings:?}");
    other.order(END).await;
    world.end().await;
}

/// The cluster under load, as the first machine sees it: two others that serve objects.
struct Cluster {
    world: World,
    game: Game,
    one: Machine,
    other: Machine,
}

impl Cluster {
    async fn play(&self) {
        // Where guests share processors, a lease may end though nobody died; what is saved stays nevertheless.
        self.game.excuse(&self.world.view(), &[self.one.id, self.other.id].into());
        play_on(&self.game, LEVELS).await;
    }

    /// Some packets of one machine do not arrive.
    async fn loses_packets(&mut self) {
        self.one.does(LOSE).await;
        self.play().await;
        self.one.does(MEND).await;
        self.is_whole().await;
    }

    /// Another machine comes to the wire with the identity of one that is there.
    async fn meets_a_twin(&mut self) {
        self.other.does(TWIN).await;
        self.play().await;
        self.other.does(MEND).await;
        self.is_whole().await;
    }

    /// Two machines do not hear each other; both hear the one with the data.
    async fn is_parted(&mut self) {
        self.other.does(PART).await;
        self.linked("both have lost each other", |one, other| one == Some(LINKS - 1) && one == other).await;
        // Until calls that wait for the link have ended.
        tokio::time::sleep(PART_TIME).await;
        self.other.does(MEND).await;
        self.is_whole().await;
        self.play().await;
    }

    /// One machine leaves the network of TIPC and comes back to it, and nothing else of its network.
    async fn has_no_bearer(&mut self) {
        self.one.does(LEAVE).await;
        self.linked("the other one has lost it", |one, other| one.is_none() && other == Some(LINKS - 1))
            .await;
        self.one.does(MEND).await;
        self.is_whole().await;
        self.play().await;
    }

    /// One machine hears nobody for a while.
    async fn is_cut_off(&mut self) {
        self.other.does(CUT).await;
        self.is_whole().await;
        self.play().await;
    }

    /// Waits until both machines have all their links, which nobody but themselves makes.
    async fn is_whole(&self) {
        self.linked("all links are there", |one, other| one == Some(LINKS) && other == one).await;
    }

    /// Waits until the links of both machines are so; `None`: it does not answer.
    async fn linked(&self, what: &str, is_so: impl Fn(Option<u64>, Option<u64>) -> bool) {
        let mut seen = (None, None);
        let wait = async {
            while !is_so(seen.0, seen.1) {
                seen = self.world.links_of(self.one.id, self.other.id).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, wait).await.is_ok();
        assert!(in_time, "in vain: {what}; they have {seen:?}");
    }
}

/// Serves objects, and does what the first one says.
async fn serve(number: u8) {
    let mut orders = connect().await;
    let mut secret = vec![0; usize::from(orders.read_u16().await.expect("a length"))];
    orders.read_exact(&mut secret).await.expect("the secret");
    let file = std::env::temp_dir().join(format!("epicserver-test-machine-{number}.secret"));
    std::fs::write(&file, &secret).expect("a file in the guest's memory");
    let process = start_with_secret(&file, "tipc", "dedicated").await;
    orders.write_u64(process.id).await.expect("the first guest is there");
    // The others are the second and the third.
    let peer = 5 - number;
    let mut mending = String::new();
    loop {
        let order = orders.read_u8().await.expect("an order");
        match order {
            LOSE => {
                shell("tc qdisc add dev eth0 root netem loss 5%").await;
                // That some were lost, and not only should have been.
                mending =
                    "! tc -s qdisc show dev eth0 | grep -q 'dropped 0,' && tc qdisc del dev eth0 root".into();
            }
            PART => {
                let address = format!("52:54:00:00:78:0{peer}");
                shell(&format!(
                    "tc qdisc add dev eth0 clsact \
                     && tc filter add dev eth0 ingress protocol all flower src_mac {address} action drop \
                     && tc filter add dev eth0 egress protocol all flower dst_mac {address} action drop"
                ))
                .await;
                mending = "tc qdisc del dev eth0 clsact".into();
            }
            LEAVE => {
                shell("tipc bearer disable media eth device eth0").await;
                mending = "tipc bearer enable media eth device eth0".into();
            }
            TWIN => {
                shell(&format!(
                    "ip netns add twin && ip link add twin0 link eth0 type macvlan mode bridge \
                     && ip link set twin0 addrgenmode none netns twin && ip -n twin link set twin0 up \
                     && ip netns exec twin tipc node set identity guest{peer} \
                     && ip netns exec twin tipc bearer enable media eth device twin0 \
                     && until [ $(ip netns exec twin cat /sys/class/net/twin0/statistics/tx_packets) -ge 2 ]; do sleep 0.1; done"
                ))
                .await;
                mending =
                    "ip netns exec twin tipc bearer disable media eth device twin0 && ip netns del twin"
                        .into();
            }
            MEND => shell(&std::mem::take(&mut mending)).await,
            CUT => {
                shell("ip link set eth0 down").await;
                tokio::time::sleep(CUT_TIME).await;
                shell("ip link set eth0 up").await;
            }
            // Nobody hears a word of its end, nor that there is another machine in its place later.
            DIE => {
                shell("ip link set eth0 down").await;
                process.kill().await;
                tokio::time::sleep(CUT_TIME).await;
                return shell("ip link set eth0 up").await;
            }
            _ => return,
        }
        orders.write_u8(order).await.expect("the first guest is there");
    }
}

/// Connects to the first guest, once it is there.
async fn connect() -> TcpStream {
    let wait = async {
        loop {
            if let Ok(stream) = TcpStream::connect((FIRST, PORT)).await {
                return stream;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the first guest is there in time")
}

/// Runs it as root of this guest, whatever it changes is gone with it.
async fn shell(script: &str) {
    let run = Command::new("sh").args(["-c", script]).status().await;
    assert!(run.expect("sh runs").success(), "{script}");
}

/// Another machine, as the first one sees it.
struct Machine {
    orders: TcpStream,
    /// The id of its node.
    id: u64,
}

impl Machine {
    /// Takes in the next one, which joins the cluster by its secret and nothing else.
    async fn take_in(listener: &TcpListener, secret: &[u8]) -> Self {
        let accepted = tokio::time::timeout(PATIENCE, listener.accept());
        let (mut orders, _) = accepted.await.expect("another guest is there in time").expect("a connection");
        orders.write_u16(secret.len() as u16).await.expect("the guest is there");
        orders.write_all(secret).await.expect("the guest is there");
        let id = tokio::time::timeout(PATIENCE, orders.read_u64()).await.expect("it joins in time");
        Self { orders, id: id.expect("it has joined") }
    }

    /// Tells it what to do last.
    async fn order(mut self, what: u8) {
        self.orders.write_u8(what).await.expect("the guest is there");
    }

    /// Tells it what to do, and waits until that is done.
    async fn does(&mut self, what: u8) {
        self.orders.write_u8(what).await.expect("the guest is there");
        let answer = tokio::time::timeout(PATIENCE, self.orders.read_u8()).await;
        assert_eq!(answer.expect("it answers in time").expect("an answer"), what);
    }
}

/// The first guest on the wire.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const PORT: u16 = 7878;
/// Longer than links of TIPC wait for each other.
const CUT_TIME: Duration = Duration::from_secs(2);
/// Longer than calls wait for a link.
const PART_TIME: Duration = Duration::from_secs(4);
/// Of a machine: to the data node, to the client that plays, and to the other machine.
const LINKS: u64 = 3;
/// What is played with each fault.
const LEVELS: u64 = 20;
const LOSE: u8 = b'l';
const TWIN: u8 = b't';
const PART: u8 = b'p';
const LEAVE: u8 = b'b';
/// Undoes what was done last.
const MEND: u8 = b'm';
const CUT: u8 = b'c';
const DIE: u8 = b'd';
const END: u8 = b'e';
const AGAIN: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(120);
