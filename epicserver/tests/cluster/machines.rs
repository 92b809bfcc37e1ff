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

use crate::play::Outcome;
use crate::world::{World, play_on, start_game, start_with_secret};

/// What needs three kernels with TIPC on one wire.
mod in_three_guests {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_machine_dies_and_nothing_acknowledged_is_lost() {
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
    // Where guests share processors, a lease may end though nobody died; what is saved stays nevertheless.
    let game = start_game(&world, 10);
    game.excuse(&world.view(), &[one.id, other.id].into());
    play_on(&game, 20).await;

    let mut other = other.order(CUT).await;
    other.answers().await;
    play_on(&game, 20).await;

    game.excuse(&world.view(), &[one.id, other.id].into());
    let id = other.id;
    one.order(DIE).await;
    world.owned_by(id).await;
    play_on(&game, 20).await;
    let Outcome { findings, failed, .. } = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, failed), (0, 0, 0), "{findings:?}");
    assert!(findings.acknowledged_saves > 0, "{findings:?}");
    other.order(END).await;
    world.end().await;
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
    loop {
        match orders.read_u8().await.expect("an order") {
            CUT => {
                wire("down").await;
                tokio::time::sleep(CUT_TIME).await;
                wire("up").await;
                orders.write_u8(CUT).await.expect("the wire is mended");
            }
            // The guest ends with this program, at once, and its process with it: it has no time for a word to anybody.
            DIE => return std::mem::forget(process),
            _ => return,
        }
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

async fn wire(state: &str) {
    let set = Command::new("ip").args(["link", "set", "eth0", state]).status().await;
    assert!(set.expect("ip runs").success(), "eth0 {state}");
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

    async fn order(mut self, what: u8) -> Self {
        self.orders.write_u8(what).await.expect("the guest is there");
        self
    }

    async fn answers(&mut self) {
        let answer = tokio::time::timeout(PATIENCE, self.orders.read_u8()).await;
        answer.expect("it answers in time").expect("an answer");
    }
}

/// The first guest on the wire.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const PORT: u16 = 7878;
/// Longer than links of TIPC wait for each other, shorter than a lease.
const CUT_TIME: Duration = Duration::from_secs(3);
const CUT: u8 = b'c';
const DIE: u8 = b'd';
const END: u8 = b'e';
const AGAIN: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(120);
