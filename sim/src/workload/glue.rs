//! What `#[entity]`, `#[methods]` and `#[message]` would write: the runtime's traits for the world's types.

/// Types that may be arguments, results and state.
macro_rules! message {
    ($($name:ident),*) => {$(
        impl epicserver_runtime::codec::Wire for $name {
            const LAYOUT: u64 = epicserver_runtime::codec::layout::combine(concat!("sim.", stringify!($name)), &[]);
        }
    )*};
}

/// An entity with a number as its key, and its methods.
macro_rules! entity {
    ($entity:ident, $name:literal, $save:ident, [$($message:ident),*]) => {
        impl epicserver_runtime::Entity for $entity {
            type Key = u64;
            type Ref = epicserver_runtime::entity::RawRef<$entity>;
            const NAME: &'static str = $name;
            const SAVE: epicserver_runtime::saving::SavePolicy = epicserver_runtime::saving::SavePolicy::$save;
            const VERSION: u32 = 1;
            fn cell() -> &'static epicserver_runtime::entity::EntityCell {
                static CELL: epicserver_runtime::entity::EntityCell =
                    epicserver_runtime::entity::EntityCell::new();
                &CELL
            }
        }

        impl epicserver_runtime::entity::Methods for $entity {
            fn describe(table: &mut epicserver_runtime::entity::MethodTable<Self>) {
                $(table.method::<$message>();)*
            }
        }
    };
}

/// A method as a message.
macro_rules! method {
    ($entity:ident, $function:ident, exclusive, $($rest:tt)*) => {
        method!(@ $entity, $function, false, [&'a mut $entity], $($rest)*);
    };
    ($entity:ident, $function:ident, shared, $($rest:tt)*) => {
        method!(@ $entity, $function, false, [&'a $entity], $($rest)*);
    };
    ($entity:ident, $function:ident, serial, $($rest:tt)*) => {
        method!(@ $entity, $function, true, [&'a $entity], $($rest)*);
    };
    (@ $entity:ident, $function:ident, $serial:literal, $receiver:tt, $message:ident $fields:tt -> result $value:ty) => {
        method!(# $entity, $function, $serial, $receiver, $message $fields, Result<$value, epicserver_runtime::CallError>,
            $value, |result| match result {
                Ok(Err(error)) => Err(epicserver_runtime::MethodError::nested(error)),
                Ok(Ok(value)) => Ok(value),
                Err(error) => Err(error),
            });
    };
    (@ $entity:ident, $function:ident, $serial:literal, $receiver:tt, $message:ident $fields:tt -> $value:ty) => {
        method!(# $entity, $function, $serial, $receiver, $message $fields, $value, $value, |result| result);
    };
    (# $entity:ident, $function:ident, $serial:literal, [$receiver:ty], $message:ident { $($field:ident: $kind:ty),* },
        $value:ty, $given:ty, |$result:ident| $finish:expr) => {
        #[doc = concat!("A call of `", stringify!($entity), "::", stringify!($function), "`.")]
        #[derive(rkyv::Archive, rkyv::Serialize)]
        pub(crate) struct $message { $(pub(crate) $field: $kind),* }

        impl epicserver_runtime::entity::Method for $message {
            type Entity = $entity;
            type Value = $value;
            type Output = Result<$given, epicserver_runtime::CallError>;
            type Receiver<'a> = $receiver;
            const NAME: &'static str = stringify!($function);
            const SERIAL: bool = $serial;
            const LAYOUT: u64 = epicserver_runtime::codec::layout::combine(stringify!($function), &[]);
            fn run<'a>(self, object: Self::Receiver<'a>) -> impl Future<Output = $value> {
                $entity::$function(object, $(self.$field),*)
            }
            fn output($result: Result<$value, epicserver_runtime::CallError>) -> Self::Output {
                $finish
            }
            fn decode(
                archived: &Self::Archived,
                _: &epicserver_transport::Frame,
            ) -> Result<Self, epicserver_runtime::codec::CodecError> {
                Ok(Self { $($field: epicserver_runtime::codec::restore::<$kind>(&archived.$field)?),* })
            }
        }
    };
}

pub(super) use {entity, message, method};
