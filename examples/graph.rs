//! A graph whose vertices are objects: a breadth-first search in waves.

use epicserver::prelude::*;

#[message]
struct Edges {
    to: Vec<u64>,
}

#[entity(name = "graph.Vertex")]
#[derive(Default)]
struct Vertex {
    edges: Vec<u64>,
    distance: Field<Option<u32>>,
}

#[methods]
impl Vertex {
    /// Reads the argument where it lies, in the buffer it came in.
    async fn connect(&mut self, edges: &Archived<Edges>) {
        self.edges.extend(edges.to.iter().map(|to| to.to_native()));
    }

    /// Marks the vertex and gives its neighbours, if nobody was here before.
    async fn reach(&self, distance: u32) -> Vec<u64> {
        if self.distance.get().is_some() {
            return Vec::new();
        }
        self.distance.set(Some(distance));
        self.edges.clone()
    }

    async fn distance(&self) -> Option<u32> {
        self.distance.get()
    }
}

#[epicserver::main(entities(Vertex))]
async fn main(pool: Pool) -> Result<(), CallError> {
    const SIDE: u64 = 20;
    for vertex in 0..SIDE * SIDE {
        let (row, column) = (vertex / SIDE, vertex % SIDE);
        let right = (column + 1 < SIDE).then_some(vertex + 1);
        let down = (row + 1 < SIDE).then_some(vertex + SIDE);
        pool.get::<Vertex>(vertex).connect(Edges { to: right.into_iter().chain(down).collect() }).await?;
    }
    let mut wave = vec![0];
    let mut distance = 0;
    while !wave.is_empty() {
        let mut next = Vec::new();
        for vertex in wave {
            next.extend(pool.get::<Vertex>(vertex).reach(distance).await?);
        }
        wave = next;
        distance += 1;
    }
    let far = pool.get::<Vertex>(SIDE * SIDE - 1).distance().await?;
    assert_eq!(far, Some(2 * (SIDE as u32 - 1)));
    println!("the far corner is {} steps away", far.unwrap_or_default());
    Ok(())
}
