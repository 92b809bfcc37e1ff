//! Activations: the live form of objects, and the typed table of them that a core keeps for each entity.
//!
//! An activation never moves while it lives: methods that are suspended borrow its state. Header, key and small state
//! lie together, so that a call touches one or two cache lines. Memory is kept for the next object, never returned.

use std::any::TypeId;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use foldhash::fast::FixedState;
use rkyv::util::AlignedVec;

use crate::codec::{self, CodecError, Encoder};
use crate::entity::{Earlier, Entity, Hint, MethodEntry, MethodTable, Methods, Stored};
use crate::id::{EntityId, ObjectHash};
use crate::key::{KeyView, StoredKey};
use crate::saving::SavePolicy;
use crate::slot::{SlotList, archive};
use crate::task::Hook;

#[expect(clippy::disallowed_types, reason = "the hasher has a fixed seed, and the map is never iterated")]
type KeyMap<K> = std::collections::HashMap<K, u32, FixedState>;

const CHUNK_LEN: usize = 128;
/// The longest archive of a new object's state that tests look at.
const SAMPLE_LEN_MAX: usize = 16 << 20;

/// The untyped head of an activation.
#[repr(C)]
pub(crate) struct Header {
    pub(crate) vtable: Cell<&'static EntityVtable>,
    /// 0 free, n shared holders, -1 exclusive.
    pub(crate) lock: Cell<i32>,
    pub(crate) status: Cell<Status>,
    pub(crate) forget: Cell<bool>,
    /// Changed since its last image; used by the policies that do not save at once.
    pub(crate) dirty: Cell<bool>,
    /// Changed since its size was last taken; used by the policies that do not save at once.
    pub(crate) outweighed: Cell<bool>,
    pub(crate) partition: Cell<u16>,
    /// What it counts for in its core's memory, in bytes; 0 once it is on its way out.
    pub(crate) weight: Cell<u32>,
    /// The hash in the labels of its images; 0 until the first one is taken.
    pub(crate) key_hash: Cell<u64>,
    pub(crate) index: Cell<u32>,
    pub(crate) waiting_len: Cell<u32>,
    /// Calls that were granted the object and wait for their first turn in the run queue.
    pub(crate) unstarted: Cell<u32>,
    pub(crate) running: SlotList,
    pub(crate) waiting: SlotList,
    /// The highest batch number that this object's memory depends on.
    pub(crate) depends_on: Cell<u64>,
    /// How many times the object was saved.
    pub(crate) version: Cell<u64>,
    /// The batch that `image` lies in.
    pub(crate) image_batch: Cell<u64>,
    /// Which of the core's buffers `image` is a place in.
    pub(crate) image_buffer: Cell<u64>,
    pub(crate) image: Cell<u32>,
    /// Which use of this memory it is.
    pub(crate) generation: Cell<u32>,
    /// When it last finished a call, in nanoseconds of the node's clock.
    pub(crate) last_used: Cell<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// No object lives here.
    Vacant,
    /// Its saved state is being fetched; calls wait.
    Loading,
    /// Its `on_activate` hook runs; calls wait.
    Activating,
    Live,
    /// Its `on_drop` hook runs; calls wait and then go to the next activation.
    Closing,
}

/// The operations on an activation whose entity only the table knows.
pub(crate) struct EntityVtable {
    pub(crate) id: EntityId,
    pub(crate) name: &'static str,
    pub(crate) save: SavePolicy,
    pub(crate) version: u32,
    pub(crate) layout: u64,
    /// How long its objects may lie unused, if it says so itself.
    pub(crate) idle_ns: Option<u64>,
    /// What an activation takes beside the state, in bytes: head, key, and its entry in the table.
    pub(crate) fixed_len: u32,
    /// The archive of a state that is not measured yet.
    pub(crate) state_len_min: u32,
    /// The earlier versions of its state.
    pub(crate) earlier: &'static [EarlierForm],
    pub(crate) on_activate: Option<Hook>,
    pub(crate) on_drop: Option<Hook>,
    pub(crate) new_catalog: fn() -> Box<dyn AnyCatalog>,
    key: unsafe fn(ObjectPtr, &mut dyn FnMut(KeyView<'_>)),
    image: unsafe fn(ObjectPtr, &mut Encoder<'_>) -> Result<usize, CodecError>,
    load: unsafe fn(ObjectPtr, &[u8]) -> Result<(), CodecError>,
    /// As the two above, in the earlier version of this place in the list.
    /// An archive of a new object's state.
    pub(crate) sample: fn() -> Result<AlignedVec, CodecError>,
    /// Reads an archive of the current version, or of the earlier one of this place, and writes the state that the archive is of
    /// again, if it is of the current version.
    pub(crate) read_again: fn(Option<usize>, &[u8]) -> Result<Option<AlignedVec>, CodecError>,
    image_earlier: unsafe fn(ObjectPtr, usize, &mut Encoder<'_>) -> Result<usize, CodecError>,
    load_earlier: unsafe fn(ObjectPtr, usize, &[u8]) -> Result<(), CodecError>,
    reset: unsafe fn(ObjectPtr),
}

/// What is told of an [`Earlier`](crate::entity::Earlier) version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EarlierForm {
    pub(crate) version: u32,
    pub(crate) layout: u64,
    /// States can be saved in it, too.
    pub(crate) is_written: bool,
}

/// A version of a state that it is saved in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) version: u32,
    pub(crate) layout: u64,
    /// Its place among the earlier versions; `None`: it is the current one.
    earlier: Option<usize>,
}

impl EntityVtable {
    /// The current version.
    pub(crate) fn form(&self) -> Form {
        Form { version: self.version, layout: self.layout, earlier: None }
    }

    /// An earlier version that states can be saved in.
    pub(crate) fn written_form(&self, version: u32) -> Option<Form> {
        let place = self.earlier.iter().position(|form| form.version == version && form.is_written)?;
        Some(Form { version, layout: self.earlier[place].layout, earlier: Some(place) })
    }
}

/// The address of an activation. Activations stay where they are as long as their core exists, vacant or not, so the
/// header can be read through any such pointer on that core.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectPtr(NonNull<Header>);

impl std::ops::Deref for ObjectPtr {
    type Target = Header;
    #[inline]
    fn deref(&self) -> &Header {
        // SAFETY: made from a reference into a chunk that lives as long as the core; used on that core only.
        unsafe { self.0.as_ref() }
    }
}

impl ObjectPtr {
    #[inline]
    fn of<E: Entity>(activation: &Activation<E>) -> Self {
        // The pointer keeps the right to the whole activation, not only to its head.
        Self(NonNull::from(activation).cast())
    }

    /// The typed activation.
    ///
    /// # Safety
    /// The activation is one of `E`.
    #[inline]
    pub(crate) unsafe fn activation<'a, E: Entity>(self) -> &'a Activation<E> {
        // SAFETY: the header is the first field of a `repr(C)` struct, and the pointer was made from all of it.
        unsafe { self.0.cast::<Activation<E>>().as_ref() }
    }

    /// The key of the object, if one lives here.
    pub(crate) fn key<R>(self, read: impl FnOnce(KeyView<'_>) -> R) -> Option<R> {
        let mut read = Some(read);
        let mut result = None;
        // SAFETY: the vtable is the one of this activation's entity.
        unsafe { (self.vtable.get().key)(self, &mut |view| result = read.take().map(|read| read(view))) };
        result
    }

    /// The 16-byte name of the object.
    pub(crate) fn hash(self) -> ObjectHash {
        self.key(|key| ObjectHash::of(self.vtable.get().id, key)).unwrap_or(ObjectHash(0))
    }

    /// Whether it is live, and no call holds it or waits for it.
    pub(crate) fn is_unused(self) -> bool {
        self.lock.get() == 0 && self.waiting.is_empty() && self.status.get() == Status::Live
    }

    /// What to call the object in texts for people.
    pub(crate) fn label(self) -> String {
        let name = self.vtable.get().name;
        self.key(|key| format!("{name}/{key}")).unwrap_or_else(|| name.to_owned())
    }

    /// Writes the state's archive in this version. Nothing may be written while an exclusive method is in progress.
    #[inline]
    pub(crate) fn image(self, form: Form, encoder: &mut Encoder<'_>) -> Result<usize, CodecError> {
        // Held meanwhile, as an archiver may be user code: whatever that lets go of, nobody gets or resets the state.
        self.lock.set(self.lock.get() + 1);
        // SAFETY: the vtable is the one of this entity; callers take images only between turns and, of exclusive
        // methods, only after their end.
        let written = archive(|| unsafe {
            match form.earlier {
                None => (self.vtable.get().image)(self, encoder),
                Some(place) => (self.vtable.get().image_earlier)(self, place, encoder),
            }
        });
        self.lock.set(self.lock.get() - 1);
        written
    }

    /// Replaces the state by one that was saved in the current version or, if it is given, in the earlier one of this place in the
    /// list. Nothing may borrow the state.
    pub(crate) fn load(self, earlier: Option<usize>, bytes: &[u8]) -> Result<(), CodecError> {
        assert_eq!(self.lock.get(), 0, "a state that is borrowed was to be replaced");
        // SAFETY: the vtable is the one of this entity, and no call holds the object.
        unsafe {
            match earlier {
                None => (self.vtable.get().load)(self, bytes),
                Some(place) => (self.vtable.get().load_earlier)(self, place, bytes),
            }
        }
    }

    /// Replaces the state by its default. Nothing may borrow the state. This runs user code.
    pub(crate) fn reset(self) {
        assert_eq!(self.lock.get(), 0, "a state that is borrowed was to be replaced");
        // SAFETY: as in `load`.
        unsafe { (self.vtable.get().reset)(self) }
    }
}

/// What a core knew of where an object is, on its way to the call that uses it. Two words, which go in registers.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    object: Option<ObjectPtr>,
    /// The core's stamp; above it, of an object its generation, else the core of the node that serves it, the number of one
    /// that is distant, or [`NO_CORE`].
    detail: u64,
}

impl Default for Found {
    /// Nothing is known.
    fn default() -> Self {
        Self::with(None, NO_CORE, 0)
    }
}

const NO_CORE: u32 = u32::MAX;

/// Where an object is, as far as the core knows that has a use for it.
#[derive(Clone, Copy)]
pub(crate) enum Whereabouts {
    Unknown,
    /// In the core's memory.
    Here(ObjectPtr),
    /// With this core of the node, if that still owns it.
    Core(u16),
    /// With another node: the number by which this core knows the way there.
    Distant(u32),
}

// SAFETY: the pointer is only handed out on the core that it was found on, by the stamp that no other core shares; the
// activation's memory stays as long as that core.
unsafe impl Send for Found {}

impl Found {
    #[inline]
    fn with(object: Option<ObjectPtr>, detail: u32, stamp: u32) -> Self {
        Self { object, detail: u64::from(detail) << 32 | u64::from(stamp) }
    }

    /// What the core with this stamp knows.
    #[inline]
    pub(crate) fn by(stamp: u32, whereabouts: Whereabouts) -> Self {
        match whereabouts {
            Whereabouts::Here(object) => Self::with(Some(object), object.generation.get(), stamp),
            Whereabouts::Core(core) => Self::with(None, u32::from(core), stamp),
            Whereabouts::Distant(number) => Self::with(None, number, stamp),
            Whereabouts::Unknown => Self::with(None, NO_CORE, stamp),
        }
    }

    /// What is still true, if this is the core that found it.
    #[inline]
    pub(crate) fn still(self, stamp: u32) -> Whereabouts {
        let detail = (self.detail >> 32) as u32;
        match self.object {
            _ if self.detail as u32 != stamp => Whereabouts::Unknown,
            Some(object) if object.generation.get() == detail => Whereabouts::Here(object),
            None if Hint::is_distant(detail) => Whereabouts::Distant(detail),
            None if detail != NO_CORE => Whereabouts::Core(detail as u16),
            _ => Whereabouts::Unknown,
        }
    }
}

/// An activation of `E`.
#[repr(C)]
pub(crate) struct Activation<E: Entity> {
    pub(crate) header: Header,
    key: Cell<Option<Stored<E>>>,
    pub(crate) state: UnsafeCell<MaybeUninit<E>>,
}

impl<E: Entity> Activation<E> {
    fn vacant(index: u32) -> Self {
        Self {
            header: Header {
                vtable: Cell::new(vtable_of_unbound::<E>()),
                lock: Cell::new(0),
                status: Cell::new(Status::Vacant),
                forget: Cell::new(false),
                dirty: Cell::new(false),
                outweighed: Cell::new(false),
                partition: Cell::new(0),
                weight: Cell::new(0),
                key_hash: Cell::new(0),
                index: Cell::new(index),
                waiting_len: Cell::new(0),
                unstarted: Cell::new(0),
                running: SlotList::default(),
                waiting: SlotList::default(),
                depends_on: Cell::new(0),
                version: Cell::new(0),
                image_batch: Cell::new(0),
                image_buffer: Cell::new(0),
                image: Cell::new(0),
                generation: Cell::new(0),
                last_used: Cell::new(0),
            },
            key: Cell::new(None),
            state: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    #[inline]
    fn stored(&self) -> Option<&Stored<E>> {
        // SAFETY: the key is only replaced by `Catalog::insert` and `Catalog::vacate`, which hold no reference to it,
        // and nothing that reads it here runs foreign code before it lets go.
        unsafe { (*self.key.as_ptr()).as_ref() }
    }
}

/// All activations of `E` on one core.
pub(crate) struct Catalog<E: Entity> {
    by_key: RefCell<KeyMap<Stored<E>>>,
    chunks: UnsafeCell<Vec<Box<[Activation<E>]>>>,
    free: RefCell<Vec<u32>>,
    len: Cell<usize>,
}

impl<E: Entity> Catalog<E> {
    fn new() -> Self {
        Self {
            by_key: RefCell::new(KeyMap::with_hasher(FixedState::default())),
            chunks: UnsafeCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
            len: Cell::new(0),
        }
    }

    #[inline]
    fn at(&self, index: u32) -> Option<&Activation<E>> {
        let index = index as usize;
        // SAFETY: the vector is changed only by `grow`, which holds no reference into it and runs no foreign code; the
        // boxed slices themselves never move or go away before the catalog does.
        let chunks = unsafe { &*self.chunks.get() };
        chunks.get(index / CHUNK_LEN)?.get(index % CHUNK_LEN)
    }

    /// The activation of `key`; `hint` is where it was last time.
    #[inline(always)]
    pub(crate) fn find(&self, hint: u32, key: &Stored<E>) -> Option<ObjectPtr> {
        if let Some(found) = self.at(hint)
            && found.stored() == Some(key)
        {
            return Some(ObjectPtr::of(found));
        }
        self.find_by_key(key)
    }

    #[inline(never)]
    fn find_by_key(&self, key: &Stored<E>) -> Option<ObjectPtr> {
        let index = *self.by_key.borrow().get(key)?;
        self.at(index).map(ObjectPtr::of)
    }

    /// Makes an activation of `key`, in its default state. This runs user code (`Default`).
    pub(crate) fn insert(&self, vtable: &'static EntityVtable, key: Stored<E>, partition: u16) -> ObjectPtr {
        self.insert_with(vtable, key, partition, E::default())
    }

    /// As [`insert`](Self::insert), in this state.
    pub(crate) fn insert_with(
        &self,
        vtable: &'static EntityVtable,
        key: Stored<E>,
        partition: u16,
        state: E,
    ) -> ObjectPtr {
        let index = self.vacant_index();
        let place = self.at(index).expect("a vacant index lies inside the table");
        // SAFETY: the place is vacant, so its state is not initialised and nobody refers to it.
        unsafe { (*place.state.get()).write(state) };
        place.header.vtable.set(vtable);
        place.header.status.set(Status::Live);
        place.header.partition.set(partition);
        place.header.key_hash.set(0);
        place.header.depends_on.set(0);
        place.header.version.set(0);
        place.header.image_batch.set(0);
        place.header.image_buffer.set(0);
        place.header.forget.set(false);
        place.header.dirty.set(false);
        place.header.outweighed.set(false);
        place.header.weight.set(0);
        place.key.set(Some(key.clone()));
        self.by_key.borrow_mut().insert(key, index);
        self.len.set(self.len.get() + 1);
        ObjectPtr::of(place)
    }

    /// Looks at the state of an object of this catalog, between turns; `None` while somebody holds it exclusively.
    pub(crate) fn read<R>(&self, object: ObjectPtr, read: impl FnOnce(&E) -> R) -> Option<R> {
        let place = self.at(object.index.get())?;
        let readable =
            ObjectPtr::of(place) == object && object.status.get() != Status::Vacant && object.lock.get() >= 0;
        // SAFETY: an object lives here, so its state is initialised; no `&mut` to it exists, as nobody holds it
        // exclusively and no turn runs meanwhile.
        readable.then(|| read(unsafe { (*place.state.get()).assume_init_ref() }))
    }

    /// Whether this is the state of an object of this catalog, where that has it.
    pub(crate) fn is_state(&self, object: ObjectPtr, state: &E) -> bool {
        let is_its = |place: &Activation<E>| {
            ObjectPtr::of(place) == object && std::ptr::eq(place.state.get().cast::<E>(), state)
        };
        self.at(object.index.get()).is_some_and(is_its)
    }

    fn vacant_index(&self) -> u32 {
        if let Some(index) = self.free.borrow_mut().pop() {
            return index;
        }
        self.grow();
        self.free.borrow_mut().pop().expect("a grown table has vacant places")
    }

    #[cold]
    fn grow(&self) {
        // SAFETY: no reference into the vector itself is alive: `at` lets go of it before it returns.
        let chunks = unsafe { &mut *self.chunks.get() };
        let first = chunks.len() * CHUNK_LEN;
        chunks.push((first..first + CHUNK_LEN).map(|index| Activation::vacant(index as u32)).collect());
        self.free.borrow_mut().extend((first..first + CHUNK_LEN).rev().map(|index| index as u32));
    }
}

/// The operations on a catalog that need not know its entity.
pub(crate) trait AnyCatalog {
    fn type_id(&self) -> TypeId;
    fn len(&self) -> usize;
    /// The activation in this place, vacant or not.
    fn object(&self, index: u32) -> Option<ObjectPtr>;
    fn places(&self) -> u32;
    /// Takes an object that nothing borrows out of the table and drops its state. This runs user code.
    fn vacate(&self, object: ObjectPtr);
}

impl<E: Entity> AnyCatalog for Catalog<E> {
    fn type_id(&self) -> TypeId {
        TypeId::of::<E>()
    }

    fn len(&self) -> usize {
        self.len.get()
    }

    fn object(&self, index: u32) -> Option<ObjectPtr> {
        self.at(index).map(ObjectPtr::of)
    }

    fn places(&self) -> u32 {
        // SAFETY: as in `at`.
        (unsafe { &*self.chunks.get() }.len() * CHUNK_LEN) as u32
    }

    fn vacate(&self, object: ObjectPtr) {
        assert!(object.lock.get() == 0 && object.running.is_empty() && object.waiting.is_empty());
        let Some(place) = self.at(object.index.get()) else { return };
        let Some(key) = place.key.take() else { return };
        self.by_key.borrow_mut().remove(&key);
        object.status.set(Status::Vacant);
        object.generation.set(object.generation.get().wrapping_add(1));
        self.len.set(self.len.get() - 1);
        // SAFETY: the place held an object until now, and nothing borrows it: no call holds or waits for it.
        let state = unsafe { (*place.state.get()).assume_init_read() };
        self.free.borrow_mut().push(object.index.get());
        drop(state);
    }
}

impl<E: Entity> Drop for Catalog<E> {
    fn drop(&mut self) {
        for index in 0..self.places() {
            if let Some(object) = self.object(index)
                && object.lock.get() == 0
            {
                self.vacate(object);
            }
        }
    }
}

/// The table entry of one entity on one core.
pub(crate) struct CatalogEntry {
    type_id: TypeId,
    catalog: Box<dyn AnyCatalog>,
    pub(crate) vtable: &'static EntityVtable,
    pub(crate) methods: &'static [MethodEntry],
}

impl CatalogEntry {
    pub(crate) fn new(bound: &crate::entity::BoundEntity) -> Self {
        let catalog = (bound.vtable.new_catalog)();
        Self { type_id: catalog.type_id(), catalog, vtable: bound.vtable, methods: bound.methods }
    }

    /// The typed catalog; `None` if this is another entity's.
    #[inline]
    pub(crate) fn typed<E: Entity>(&self) -> Option<&Catalog<E>> {
        // SAFETY: the catalog is a `Catalog` of the type with this id.
        (self.type_id == TypeId::of::<E>())
            .then(|| unsafe { &*(&raw const *self.catalog).cast::<Catalog<E>>() })
    }

    pub(crate) fn any(&self) -> &dyn AnyCatalog {
        &*self.catalog
    }
}

/// The table of operations and methods of `E`, made once for the process.
pub(crate) fn vtable_of<E: Methods>() -> (&'static EntityVtable, &'static [MethodEntry]) {
    let mut table = MethodTable::<E>::new();
    E::describe(&mut table);
    table.methods.sort_by_key(|entry| entry.id);
    let form = |earlier: &Earlier<E>| EarlierForm {
        version: earlier.version,
        layout: earlier.layout,
        is_written: earlier.write.is_some(),
    };
    let earlier = Vec::leak(E::EARLIER.iter().map(form).collect());
    let vtable = EntityVtable {
        earlier,
        on_activate: table.on_activate,
        on_drop: table.on_drop,
        ..bare_vtable::<E>()
    };
    // Leaked on purpose: activations refer to it for as long as the process lives, and there are few entities.
    (Box::leak(Box::new(vtable)), Vec::leak(table.methods))
}

/// The table that vacant places point to.
fn vtable_of_unbound<E: Entity>() -> &'static EntityVtable {
    struct Of<E>(std::marker::PhantomData<E>);
    impl<E: Entity> Of<E> {
        const VTABLE: &'static EntityVtable = &bare_vtable::<E>();
    }
    Of::<E>::VTABLE
}

const fn bare_vtable<E: Entity>() -> EntityVtable {
    EntityVtable {
        id: EntityId::of(E::NAME),
        name: E::NAME,
        save: E::SAVE,
        version: E::VERSION,
        layout: E::FIELDS,
        earlier: &[],
        idle_ns: match E::IDLE_MS {
            Some(ms) => Some(ms.saturating_mul(1_000_000)),
            None => None,
        },
        fixed_len: (size_of::<Activation<E>>() - size_of::<E>() + size_of::<(Stored<E>, u32)>() + 1) as u32,
        state_len_min: size_of::<E::Archived>() as u32,
        on_activate: None,
        on_drop: None,
        new_catalog: || Box::new(Catalog::<E>::new()),
        key: key::<E>,
        image: image::<E>,
        load: load::<E>,
        sample: || codec::encode_to_vec(&E::default(), SAMPLE_LEN_MAX),
        read_again: read_again::<E>,
        image_earlier: image_earlier::<E>,
        load_earlier: load_earlier::<E>,
        reset: reset::<E>,
    }
}

/// # Safety
/// `object` is an `Activation<E>`.
unsafe fn key<E: Entity>(object: ObjectPtr, read: &mut dyn FnMut(KeyView<'_>)) {
    // SAFETY: the header is the first field of the activation.
    if let Some(key) = unsafe { object.activation::<E>() }.stored() {
        key.canonical(read);
    }
}

/// # Safety
/// `object` is a live `Activation<E>` whose state is not exclusively borrowed.
unsafe fn image<E: Entity>(object: ObjectPtr, encoder: &mut Encoder<'_>) -> Result<usize, CodecError> {
    // SAFETY: see above.
    let state = unsafe { (*object.activation::<E>().state.get()).assume_init_ref() };
    encoder.encode(state)
}

/// Writes the archive of a state in this version.
pub(crate) fn image_of<E: Entity>(
    state: &E,
    form: Form,
    encoder: &mut Encoder<'_>,
) -> Result<usize, CodecError> {
    match form.earlier {
        None => encoder.encode(state),
        Some(place) => encode_earlier(state, place, encoder),
    }
}

/// # Safety
/// `object` is a live `Activation<E>` whose state nothing borrows.
unsafe fn load<E: Entity>(object: ObjectPtr, bytes: &[u8]) -> Result<(), CodecError> {
    let state = codec::decode_saved::<E>(bytes)?;
    // SAFETY: see above.
    unsafe { *(*object.activation::<E>().state.get()).assume_init_mut() = state };
    Ok(())
}

fn read_again<E: Entity>(earlier: Option<usize>, bytes: &[u8]) -> Result<Option<AlignedVec>, CodecError> {
    match earlier.and_then(|place| E::EARLIER.get(place)) {
        Some(earlier) => (earlier.read)(bytes).map(|_| None),
        None => codec::encode_to_vec(&codec::decode_saved::<E>(bytes)?, SAMPLE_LEN_MAX).map(Some),
    }
}

/// # Safety
/// `object` is a live `Activation<E>` whose state is not exclusively borrowed.
unsafe fn image_earlier<E: Entity>(
    object: ObjectPtr,
    place: usize,
    encoder: &mut Encoder<'_>,
) -> Result<usize, CodecError> {
    // SAFETY: see above.
    let state = unsafe { (*object.activation::<E>().state.get()).assume_init_ref() };
    encode_earlier(state, place, encoder)
}

fn encode_earlier<E: Entity>(
    state: &E,
    place: usize,
    encoder: &mut Encoder<'_>,
) -> Result<usize, CodecError> {
    let write = E::EARLIER.get(place).and_then(|earlier| earlier.write);
    let write = write.ok_or_else(|| CodecError::Invalid("it cannot be saved in that version".to_owned()))?;
    // The way back is user code, and an object may be saved when nobody is there who could be told of a panic.
    catch_unwind(AssertUnwindSafe(|| write(state, encoder))).unwrap_or_else(|_| {
        Err(CodecError::Invalid("the way back to an earlier version panicked".to_owned()))
    })
}

/// # Safety
/// `object` is a live `Activation<E>` whose state nothing borrows.
unsafe fn load_earlier<E: Entity>(object: ObjectPtr, place: usize, bytes: &[u8]) -> Result<(), CodecError> {
    let earlier = E::EARLIER.get(place);
    let earlier = earlier.ok_or_else(|| CodecError::Invalid("nothing reads that version".to_owned()))?;
    let state = (earlier.read)(bytes)?;
    // SAFETY: see above.
    unsafe { *(*object.activation::<E>().state.get()).assume_init_mut() = state };
    Ok(())
}

/// # Safety
/// `object` is a live `Activation<E>` whose state nothing borrows.
unsafe fn reset<E: Entity>(object: ObjectPtr) {
    let state = E::default();
    // SAFETY: see above.
    unsafe { *(*object.activation::<E>().state.get()).assume_init_mut() = state };
}
