//! A bank: money that goes from account to account and is never lost or made, although each account saves itself and
//! calls fail. Its tests run in a simulated world, where nodes crash and stores fail, and find two ways to do it wrong.
//!
//! `cargo test -p epicserver-examples --example bank`; docs/testing.md goes through it.

use std::collections::{BTreeMap, BTreeSet};

use epicserver::prelude::*;

/// Money on its way to another account.
#[message]
#[derive(Clone)]
struct Transfer {
    to: Ref<Account>,
    amount: u64,
}

#[entity(name = "bank.Account")]
#[derive(Default)]
struct Account {
    balance: Field<u64>,
    /// What was taken from here, and of which nobody has said yet that it has come.
    leaving: Field<BTreeMap<u64, Transfer>>,
    /// Transfers that were made here, and those that came here, so that none counts twice. Two sets: who pays himself does both.
    made: Field<BTreeSet<u64>>,
    come: Field<BTreeSet<u64>>,
}

#[methods]
impl Account {
    /// The first money. `id` is one for all that ever goes on in the bank, as that of every transfer.
    async fn open(&self, id: u64, amount: u64) {
        self.receive_once(id, amount);
    }

    async fn balance(&self) -> u64 {
        self.balance.get()
    }

    /// Gives whether there was enough. May be called again with the same `id` when it is not known whether it ran.
    async fn transfer(&self, id: u64, to: Ref<Account>, amount: u64) -> Result<bool, CallError> {
        if !self.made.with(|made| made.contains(&id)) {
            // Looked at and taken without an await in between, and saved together.
            if self.balance.get() < amount {
                return Ok(false);
            }
            self.balance.update(|balance| balance - amount);
            self.made.modify(|made| made.insert(id));
            self.leaving.modify(|leaving| leaving.insert(id, Transfer { to, amount }));
        }
        self.settle().await?;
        Ok(true)
    }

    /// Sends what nobody has acknowledged, once more: who has it already knows it by its number.
    async fn settle(&self) -> Result<(), CallError> {
        for (id, transfer) in self.leaving.get() {
            transfer.to.receive(id, transfer.amount).await?;
            self.leaving.modify(|leaving| leaving.remove(&id));
        }
        Ok(())
    }

    async fn receive(&self, id: u64, amount: u64) {
        self.receive_once(id, amount);
    }

    /// Wrong: between the look at the balance and the change of it others run.
    async fn transfer_carelessly(&self, id: u64, to: Ref<Account>, amount: u64) -> Result<bool, CallError> {
        let balance = self.balance.get();
        if balance < amount {
            return Ok(false);
        }
        to.receive(id, amount).await?;
        self.balance.set(balance - amount);
        Ok(true)
    }

    /// Wrong: a call that failed may have run, and then the money is here and there.
    async fn transfer_hopefully(&self, id: u64, to: Ref<Account>, amount: u64) -> Result<bool, CallError> {
        if self.balance.get() < amount {
            return Ok(false);
        }
        self.balance.update(|balance| balance - amount);
        if let Err(error) = to.receive(id, amount).await {
            self.balance.update(|balance| balance + amount);
            return Err(error);
        }
        Ok(true)
    }

    fn receive_once(&self, id: u64, amount: u64) {
        if self.come.modify(|come| come.insert(id)) {
            self.balance.update(|balance| balance + amount);
        }
    }
}

#[epicserver::main(entities(Account))]
async fn main(pool: Pool) -> Result<(), CallError> {
    let (alice, bob) = (pool.get::<Account>(1), pool.get::<Account>(2));
    alice.open(1, 100).await?;
    assert!(alice.transfer(2, bob.clone(), 30).await?);
    assert!(!alice.transfer(3, bob.clone(), 80).await?);
    // It ran already.
    assert!(alice.transfer(2, bob.clone(), 30).await?);
    println!("Alice has {}, Bob has {}", alice.balance().await?, bob.balance().await?);
    assert_eq!((alice.balance().await?, bob.balance().await?), (70, 30));
    Ok(())
}

#[cfg(test)]
mod tests {
    use epicserver_sim::{World, check};

    use super::*;

    const ACCOUNTS: u64 = 3;
    const MONEY: u64 = 100;

    #[derive(Clone, Copy)]
    enum Way {
        Right,
        Careless,
        Hopeful,
    }

    /// Somebody who makes transfers, and does not care what becomes of them.
    async fn customer(world: World, way: Way) {
        for _ in 0..5 {
            let (from, amount) = (world.below(ACCOUNTS), world.below(60));
            // The wrong ways fail for another reason too when somebody pays himself.
            let others = if matches!(way, Way::Right) { 0 } else { 1 };
            let to = (from + others + world.below(ACCOUNTS - others)) % ACCOUNTS;
            let Ok(pool) = world.pool() else { continue };
            let (id, from, to) = (world.random(), pool.get::<Account>(from), pool.get::<Account>(to));
            let transferred = match way {
                Way::Right => from.transfer(id, to, amount).await,
                Way::Careless => from.transfer_carelessly(id, to, amount).await,
                Way::Hopeful => from.transfer_hopefully(id, to, amount).await,
            };
            world.note(format!("{amount} transferred: {transferred:?}"));
        }
    }

    async fn check_money(world: World, way: Way) -> Result<(), CallError> {
        for key in 0..ACCOUNTS {
            world.until_ok(|pool| pool.get::<Account>(key).open(key, MONEY)).await;
        }
        let customers: Vec<_> = (0..3).map(|_| world.spawn(customer(world.clone(), way))).collect();
        for customer in customers {
            customer.await;
        }
        world.heal().await;
        for key in 0..ACCOUNTS {
            world.until_ok(|pool| pool.get::<Account>(key).settle()).await;
        }
        let mut money = 0;
        for key in 0..ACCOUNTS {
            money += world.until_ok(|pool| pool.get::<Account>(key).balance()).await;
        }
        assert_eq!(money, ACCOUNTS * MONEY, "money was lost or made");
        Ok(())
    }

    #[epicserver_sim::sim(entities(Account), nodes = 1..4, seeds = 60)]
    async fn money_is_conserved(world: World) -> Result<(), CallError> {
        check_money(world, Way::Right).await
    }

    #[test]
    fn a_look_before_an_await_is_found_by_order_alone() {
        let accounts = || check::<(Account,)>().nodes(1..3).calm();
        let failure = accounts().seeds(200).try_run(|world| check_money(world, Way::Careless));
        let failure = failure.expect_err("the bug is found");
        assert!(failure.what.contains("money was lost or made"), "{failure}");
        let again = accounts().seed(failure.seed).shrink_runs(0);
        let again = again.try_run(|world| check_money(world, Way::Careless)).expect_err("it fails again");
        assert_eq!(again.trace_hash, failure.trace_hash);
        // What is shown is a smaller run, which loses money too.
        let shrunk = failure.shrunk.expect("it was looked for");
        assert!(shrunk.events.1 < shrunk.events.0 && shrunk.tape_len.1 < shrunk.tape_len.0, "{shrunk:?}");
        let smaller = accounts().seed(failure.seed).edits(shrunk.edits.clone());
        let smaller = smaller.try_run(|world| check_money(world, Way::Careless)).expect_err("it fails too");
        assert_eq!((smaller.trace_hash, smaller.what), (shrunk.trace_hash, shrunk.what));
    }

    #[test]
    fn a_failure_that_is_taken_for_certain_is_found() {
        let hopeful = || check::<(Account,)>().nodes(2..4);
        let failure = hopeful().seeds(200).shrink_runs(20).try_run(|world| check_money(world, Way::Hopeful));
        let failure = failure.expect_err("the bug is found");
        assert!(failure.what.contains("money was lost or made"), "{failure}");
        let again = hopeful().seed(failure.seed).shrink_runs(0);
        let again = again.try_run(|world| check_money(world, Way::Hopeful)).expect_err("it fails again");
        assert_eq!(again.trace_hash, failure.trace_hash);
    }
}
