//! Entities and methods as the macros of users would write them, which this crate cannot use.

/// What `#[entity]` and `#[methods]` make of a struct.
macro_rules! entity {
    ($entity:ident, $key:ty, $name:literal, $save:expr, [$($method:ty),*]) => {
        impl $crate::codec::Wire for $entity {
            const LAYOUT: u64 = $crate::codec::layout::combine($name, &[]);
        }
        impl $crate::entity::Entity for $entity {
            type Key = $key;
            type Ref = $crate::entity::RawRef<Self>;
            const NAME: &'static str = $name;
            const SAVE: $crate::saving::SavePolicy = $save;
            const VERSION: u32 = 1;
            fn cell() -> &'static $crate::entity::EntityCell {
                static CELL: $crate::entity::EntityCell = $crate::entity::EntityCell::new();
                &CELL
            }
        }
        impl $crate::entity::Methods for $entity {
            fn describe(table: &mut $crate::entity::MethodTable<Self>) {
                $(table.method::<$method>();)*
            }
        }
    };
}

/// A message with these fields and the method that it is for: `method!(Add { by: u64 } on Post as &'a mut Post, u64, |this,
/// post| ...)`.
macro_rules! method {
    ($method:ident { $($field:ident: $type:ty),* } on $entity:ty as $receiver:ty, $value:ty, |$this:ident, $object:ident| $body:expr) => {
        #[derive(Clone, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        pub(crate) struct $method { $(pub(crate) $field: $type),* }
        impl $crate::entity::Method for $method {
            type Entity = $entity;
            type Value = $value;
            type Output = Result<$value, $crate::error::CallError>;
            type Receiver<'a> = $receiver;
            const NAME: &'static str = stringify!($method);
            const LAYOUT: u64 = 1;
            fn run<'a>(self, $object: Self::Receiver<'a>) -> impl Future<Output = $value> {
                let $this = self;
                async move { $body }
            }
            fn output(result: Result<$value, $crate::error::CallError>) -> Self::Output {
                result
            }
            fn decode(
                archived: &Self::Archived,
                _: &epicserver_transport::Frame,
            ) -> Result<Self, $crate::codec::CodecError> {
                let _ = archived;
                Ok(Self { $($field: $crate::codec::restore::<$type>(&archived.$field)?),* })
            }
        }
    };
}

pub(crate) use {entity, method};
