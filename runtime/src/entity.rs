//! What `#[entity]` and `#[methods]` tell the runtime about a type, and the reference to one of its objects.

use std::fmt::{self, Debug};
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use epicserver_transport::Frame;
use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Serialize};

use crate::activation::{EarlierForm, EntityVtable, Found, Whereabouts, vtable_of};
use crate::call::Call;
use crate::codec::{CodecError, Encoder, Wire, WireSerializer, layout};
use crate::core::CoreState;
use crate::error::CallError;
use crate::key::{EntityKey, StoredKey};
use crate::saving::SavePolicy;
use crate::slot::{Hold, TaskVtable};
use crate::task::{Hook, method_table};

/// A type whose objects are virtual. Implemented by `#[entity]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an entity",
    note = "put `#[entity(name = \"game.{Self}\")]` on the struct"
)]
pub trait Entity: Default + Wire {
    /// The type of the keys that name its objects.
    type Key: EntityKey;
    /// The typed reference, with one method for each method of the entity.
    type Ref: From<RawRef<Self>> + Clone + Debug + Send + Sync + 'static;
    /// The name in the cluster and in saved records; it must be unique and never change.
    const NAME: &'static str;
    /// What a crash may lose.
    const SAVE: SavePolicy;
    /// The version of the state's layout.
    const VERSION: u32;
    /// How long an object may lie unused before it leaves memory, in milliseconds; `None`: as long as the node says.
    const IDLE_MS: Option<u64> = None;
    /// How states that were saved in earlier versions become this one; oldest first.
    const EARLIER: &'static [Earlier<Self>] = &[];
    /// The process-wide cell that the runtime keeps its number of this entity in.
    fn cell() -> &'static EntityCell;
    /// The key that decides where an object lives; the object's own unless `partition_by` was given.
    fn placement(key: &Stored<Self>) -> Stored<Self> {
        key.clone()
    }
    /// Whether [`placement`](Self::placement) is other than the key itself.
    const PLACED: bool = false;
}

/// An earlier version of an entity's state, as `#[entity(migrations(..))]` names it.
#[derive(Debug)]
pub struct Earlier<E> {
    pub(crate) version: u32,
    pub(crate) layout: u64,
    pub(crate) read: fn(&[u8]) -> Result<E, CodecError>,
    pub(crate) write: Option<WriteEarlier<E>>,
}

type WriteEarlier<E> = fn(&E, &mut Encoder<'_>) -> Result<usize, CodecError>;

impl<E> Earlier<E> {
    /// The version whose state had the fields of `Old`, and how to make today's state of its archive. With `write`, states can be
    /// saved in this version as well, while a member of the cluster knows no newer one.
    pub const fn new<Old: Wire>(
        version: u32,
        read: fn(&[u8]) -> Result<E, CodecError>,
        write: Option<WriteEarlier<E>>,
    ) -> Self {
        Self { version, layout: Old::FIELDS, read, write }
    }
}

/// The kept form of an entity's keys.
pub type Stored<E> = <<E as Entity>::Key as EntityKey>::Stored;

/// A typed reference to an object of `E`: small, cloneable, sendable, storable in state, usable as an argument.
pub type Ref<E> = <E as Entity>::Ref;

/// A reference to the object of `E` with this key, for entity code: `object::<Barrel>(7)`. Outside of it, ask the
/// [`Pool`](crate::Pool).
pub fn object<E: Entity>(key: <E::Key as EntityKey>::Argument<'_>) -> Ref<E> {
    RawRef::new(key).into()
}

/// The methods and hooks of an entity. Implemented by `#[methods]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no methods that can be called",
    note = "put `#[methods]` on one `impl {Self} {{ .. }}` block"
)]
pub trait Methods: Entity {
    /// Tells each method that can be called.
    fn describe(table: &mut MethodTable<Self>);
}

/// What an entity can do, filled by [`Methods::describe`].
pub struct MethodTable<E: Entity> {
    pub(crate) methods: Vec<MethodEntry>,
    pub(crate) on_activate: Option<Hook>,
    pub(crate) on_drop: Option<Hook>,
    entity: std::marker::PhantomData<fn(E)>,
}

/// How a method is reached from another node.
#[derive(Clone, Copy)]
pub(crate) struct MethodEntry {
    /// That of the table of operations, where it is looked for.
    pub(crate) id: u32,
    pub(crate) vtable: &'static TaskVtable,
    pub(crate) inbound: crate::task::InboundFn,
    pub(crate) partition: crate::task::PartitionFn,
    pub(crate) find: crate::task::FindFn,
}

impl<E: Entity> MethodTable<E> {
    pub(crate) fn new() -> Self {
        Self { methods: Vec::new(), on_activate: None, on_drop: None, entity: std::marker::PhantomData }
    }

    /// Adds a method.
    pub fn method<M: Method<Entity = E>>(&mut self) {
        self.methods.push(method_table::<M>());
    }

    /// Names the hook that runs on every activation before the first call.
    pub fn on_activate<M: Method<Entity = E> + Default>(&mut self) {
        self.on_activate = Some(Hook::of::<M>());
    }

    /// Names the hook that runs before an activation is dropped because it is idle, moves, or its node stops.
    pub fn on_drop<M: Method<Entity = E> + Default>(&mut self) {
        self.on_drop = Some(Hook::of::<M>());
    }
}

/// One method of an entity, as a message: its fields are the arguments. Implemented by `#[methods]`.
pub trait Method:
    Archive<Archived: for<'a> CheckBytes<LowValidator<'a, Error>>>
    + for<'a> Serialize<WireSerializer<'a>>
    + Sized
    + Send
    + 'static
{
    /// The entity it is a method of.
    type Entity: Entity;
    /// What the method returns.
    type Value: Wire + Send;
    /// What awaiting a call gives: the method's own `Result`, or `Result<Value, CallError>`.
    type Output;
    /// `&'a Entity` or `&'a mut Entity`.
    type Receiver<'a>: Receiver<'a, Self::Entity>;
    /// The method's name.
    const NAME: &'static str;
    /// `#[method(serial)]`: a shared method that does not interleave with itself.
    const SERIAL: bool = false;
    /// `#[method(shield)]`: runs to its end although nobody waits for it any more.
    const SHIELD: bool = false;
    /// `#[method(ungated)]`: its results leave the node before what they tell is durable, and nobody depends on it who got one.
    const UNGATED: bool = false;
    /// A hash of the arguments' and the result's shape.
    const LAYOUT: u64;
    /// The method's body.
    fn run<'a>(self, object: Self::Receiver<'a>) -> impl Future<Output = Self::Value>;
    /// What the caller sees.
    fn output(result: Result<Self::Value, CallError>) -> Self::Output;
    /// Reads the arguments from a validated archive that lies in `frame`.
    ///
    /// # Errors
    /// [`CodecError`] if an argument cannot be made.
    fn decode(archived: &Self::Archived, frame: &Frame) -> Result<Self, CodecError>;
}

/// The number of a method in frames: a hash of its name.
pub const fn method_id(name: &str) -> u32 {
    layout::combine(name, &[]) as u32
}

/// How a method borrows its object: `&E` or `&mut E`, nothing else.
pub trait Receiver<'a, E>: sealed::Sealed {
    /// Whether it excludes every other call on the object.
    const EXCLUSIVE: bool;
    #[doc(hidden)]
    fn borrow(object: BorrowedObject<'a, E>) -> Self;
}

/// The right to borrow an object's state; only the runtime makes one, when it has granted the object to a call.
#[doc(hidden)]
pub struct BorrowedObject<'a, E> {
    pub(crate) state: *mut E,
    pub(crate) granted: std::marker::PhantomData<&'a mut E>,
}

pub(crate) const fn hold_of<M: Method>() -> Hold {
    match (<M::Receiver<'static> as Receiver<'static, M::Entity>>::EXCLUSIVE, M::SERIAL) {
        (true, _) => Hold::Exclusive,
        (false, true) => Hold::Serial,
        (false, false) => Hold::Shared,
    }
}

/// Where a process keeps the runtime's number of one entity. Made by `#[entity]` as a `static`.
pub struct EntityCell {
    number: AtomicU32,
    tables: OnceLock<Tables>,
}

type Tables = (&'static EntityVtable, &'static [MethodEntry]);

impl EntityCell {
    /// A cell of an entity that no node of this process has bound yet.
    #[allow(clippy::new_without_default, reason = "used as a static initialiser")]
    pub const fn new() -> Self {
        Self { number: AtomicU32::new(UNBOUND), tables: OnceLock::new() }
    }

    /// The number, or one beyond every table while the entity is unbound.
    #[inline]
    pub(crate) fn number(&self) -> usize {
        self.number.load(Ordering::Relaxed) as usize
    }

    /// Gives the entity its number in this process, once.
    pub(crate) fn bind(&self) -> usize {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = self.number.load(Ordering::Acquire);
        if number != UNBOUND {
            return number as usize;
        }
        let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
        match self.number.compare_exchange(UNBOUND, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh as usize,
            Err(winner) => winner as usize,
        }
    }
}

const UNBOUND: u32 = u32::MAX;

/// A set of entities that a node binds: a tuple such as `(Player, Barrel)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a set of entities",
    note = "entities are bound as a tuple, a single one too: `bind::<(Player,)>()`"
)]
pub trait Entities {
    #[doc(hidden)]
    fn collect(into: &mut Vec<BoundEntity>);
}

/// An entity as a node knows it.
#[derive(Clone, Copy)]
pub struct BoundEntity {
    pub(crate) number: usize,
    pub(crate) vtable: &'static EntityVtable,
    pub(crate) methods: &'static [MethodEntry],
}

impl Debug for BoundEntity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundEntity").field("name", &self.vtable.name).finish_non_exhaustive()
    }
}

impl BoundEntity {
    /// What the record of a member says of it.
    pub(crate) fn record(&self) -> epicserver_storage::BoundEntity {
        let form = |form: &EarlierForm| epicserver_storage::EarlierForm {
            version: form.version,
            layout: form.layout,
        };
        let earlier = self.vtable.earlier.iter().filter(|form| form.is_written).map(form).collect();
        let vtable = self.vtable;
        let record = epicserver_storage::BoundEntity::new(vtable.name, vtable.version, vtable.layout);
        epicserver_storage::BoundEntity { earlier, ..record }
    }
}

fn collect_one<E: Methods>(into: &mut Vec<BoundEntity>) {
    // Once for the process: activations and slots refer to the tables for ever.
    let (vtable, methods) = *E::cell().tables.get_or_init(vtable_of::<E>);
    into.push(BoundEntity { number: E::cell().bind(), vtable, methods });
}

impl Entities for () {
    fn collect(_: &mut Vec<BoundEntity>) {}
}

macro_rules! entities {
    ($($name:ident)+) => {
        impl<$($name: Methods),+> Entities for ($($name,)+) {
            fn collect(into: &mut Vec<BoundEntity>) {
                $(collect_one::<$name>(into);)+
            }
        }
    };
}
entities!(A);
entities!(A B);
entities!(A B C);
entities!(A B C D);
entities!(A B C D F);
entities!(A B C D F G);
entities!(A B C D F G H);
entities!(A B C D F G H I);
entities!(A B C D F G H I J);
entities!(A B C D F G H I J K);
entities!(A B C D F G H I J K L);
entities!(A B C D F G H I J K L M);

/// The untyped part of a reference: which object of `E`, where it was last found, and which node of this process to ask.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = rkyv)]
pub struct RawRef<E: Entity> {
    key: Stored<E>,
    #[rkyv(with = rkyv::with::Skip)]
    hint: Hint,
    #[rkyv(with = rkyv::with::Skip)]
    node: NodeTag,
}

/// The partition that the object of `E` with this key belongs to.
pub fn partition_of<E: Entity>(key: <E::Key as EntityKey>::Argument<'_>) -> epicserver_storage::Partition {
    let number = CoreState::partition_of::<E>(&E::Key::store(key));
    epicserver_storage::Partition::new(number).expect("a hash modulo the number of partitions")
}

impl<E: Entity> RawRef<E> {
    /// A reference to the object with this key, seen from the node this thread runs in.
    pub fn new(key: <E::Key as EntityKey>::Argument<'_>) -> Self {
        Self::of(E::Key::store(key), NodeTag::default())
    }

    pub(crate) fn of(key: Stored<E>, node: NodeTag) -> Self {
        Self { key, hint: Hint::default(), node }
    }

    /// A call of one of the object's methods; nothing happens until it is awaited or sent.
    #[inline]
    pub fn call<M: Method<Entity = E>>(&self, message: M) -> Call<M> {
        Call::new(self.key.clone(), self.find(), self.node, message)
    }

    /// What the running core knows of where the object is. Of a size that is handed over in registers, and outlined, so that
    /// calls are small enough to be made where their caller keeps them: one that is moved there waits for its own stores.
    #[inline(never)]
    fn find(&self) -> Found {
        let find = |core: &CoreState| {
            let hint = self.hint.0.load(Ordering::Relaxed);
            let whereabouts = core.look_up::<E>(&self.key, hint);
            let better = match whereabouts {
                Whereabouts::Here(object) => object.index.get(),
                Whereabouts::Core(other) => core.core_mark() | u32::from(other),
                Whereabouts::Distant(number) => number,
                Whereabouts::Unknown => hint,
            };
            if better != hint {
                self.hint.0.store(better, Ordering::Relaxed);
            }
            Found::by(core.stamp(), whereabouts)
        };
        crate::current::with(find).unwrap_or_default()
    }

    /// The object's key.
    pub fn key(&self) -> E::Key {
        E::Key::restore(&self.key)
    }
}

/// Where the object was last found in its core's table, which other core of the node serves it, or by which number a core knows
/// the way to it on another node. Only a hint: the full key is
/// compared before a place is believed, and a core that does not serve the object passes the call on.
#[derive(Default)]
pub(crate) struct Hint(AtomicU32);

impl Hint {
    /// Marks a hint that names a core: the number of the core is in the lower half, in the upper one how often objects had left
    /// the node by then. Nobody can tell whether an older hint still holds.
    pub(crate) const AWAY: u32 = 1 << 31;

    /// Marks a hint that is the number of a distant object; no place in a table is as large.
    pub(crate) const DISTANT: u32 = 1 << 30;

    #[inline]
    pub(crate) fn is_distant(hint: u32) -> bool {
        hint & (Self::AWAY | Self::DISTANT) == Self::DISTANT
    }

    /// The mark once objects have left the node again.
    pub(crate) fn next_mark(mark: u32) -> u32 {
        mark.wrapping_add(1 << 16) | Self::AWAY
    }
}

/// The number of a node in this process; 0 is none. Never archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeTag(pub(crate) u32);

impl NodeTag {
    /// The node with this number, entered through this core.
    pub(crate) fn pack(node: u32, core: u16) -> Self {
        Self(node << CORE_BITS | u32::from(core))
    }

    pub(crate) fn node(self) -> u32 {
        self.0 >> CORE_BITS
    }

    pub(crate) fn core(self) -> usize {
        (self.0 & ((1 << CORE_BITS) - 1)) as usize
    }
}

const CORE_BITS: u32 = 10;

impl Default for NodeTag {
    /// The node whose core this thread is stepping, or none.
    fn default() -> Self {
        Self(crate::current::with(|core| core.node_tag()).unwrap_or(0))
    }
}

#[cfg(test)]
impl<E: Entity> RawRef<E> {
    /// The reference, with another core as the one that serves the object.
    pub(crate) fn hinted(self, core: u16) -> Self {
        self.hint.0.store(Hint::AWAY | u32::from(core), Ordering::Relaxed);
        self
    }

    /// Whether it says which way a core knows to the object on another node.
    pub(crate) fn knows_way(&self) -> bool {
        Hint::is_distant(self.hint.0.load(Ordering::Relaxed))
    }
}

impl<E: Entity> Clone for RawRef<E> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            hint: Hint(AtomicU32::new(self.hint.0.load(Ordering::Relaxed))),
            node: self.node,
        }
    }
}

impl<E: Entity> Debug for RawRef<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.canonical(|key| write!(f, "{}/{key}", E::NAME))
    }
}

impl<E: Entity> PartialEq for RawRef<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<E: Entity> Eq for RawRef<E> {}

impl<E: Entity> PartialOrd for RawRef<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E: Entity> Ord for RawRef<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl<E: Entity> Hash for RawRef<E> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl<E: Entity> Wire for RawRef<E> {
    const LAYOUT: u64 = layout::combine(E::NAME, &[Stored::<E>::LAYOUT]);
}

pub(crate) mod sealed {
    pub trait Sealed {}
    impl<E> Sealed for &E {}
    impl<E> Sealed for &mut E {}
}
