//! How checked types are put into generated ones and taken out again, field by field.

use std::fmt::Display;

use super::MAX_SHORT_LIST_LEN;

/// A checked type that has a generated one.
pub(super) trait Wire: Sized {
    /// The generated type, or a plain one that stands for it in its fields.
    type Message;

    /// The value as it travels.
    fn put(&self) -> Self::Message;

    /// Checks what has come.
    fn take(message: Self::Message) -> Result<Self, Fault>;
}

/// What is wrong with a field, and where.
#[derive(Debug)]
pub(super) struct Fault {
    /// The names of the field and of what it is in, innermost first.
    path: Vec<&'static str>,
    text: String,
}

impl Fault {
    pub(super) fn new(text: impl Display) -> Self {
        Self {
            path: Vec::new(),
            text: text.to_string(),
        }
    }

    pub(super) fn within(mut self, field: &'static str) -> Self {
        self.path.push(field);
        self
    }

    /// The path, outermost first, and the fault.
    pub(super) fn told(self) -> (String, String) {
        let mut path = self.path;
        path.reverse();
        (path.join("."), self.text)
    }
}

/// A message field that must be there.
pub(super) fn required<T>(field: Option<T>) -> Result<T, Fault> {
    field.ok_or_else(|| Fault::new("missing"))
}

/// A list of at most `max` values.
pub(super) fn list<T: Wire>(values: Vec<T::Message>, max: usize) -> Result<Vec<T>, Fault> {
    if values.len() > max {
        let text = format!("{} values; at most {max} are allowed", values.len());
        return Err(Fault::new(text));
    }
    values.into_iter().map(T::take).collect()
}

impl<T: Wire> Wire for Box<T> {
    type Message = T::Message;

    fn put(&self) -> Self::Message {
        T::put(self)
    }

    fn take(message: Self::Message) -> Result<Self, Fault> {
        T::take(message).map(Self::new)
    }
}

/// Puts one field: a value, a message, something optional, or a list.
macro_rules! put {
    (value $from:expr) => {
        crate::codec::parts::Wire::put($from)
    };
    (message $from:expr) => {
        Some(crate::codec::parts::Wire::put($from))
    };
    (option $from:expr) => {
        $from.as_ref().map(crate::codec::parts::Wire::put)
    };
    (list $from:expr) => {
        $from.iter().map(crate::codec::parts::Wire::put).collect()
    };
    (long $from:expr) => {
        $from.iter().map(crate::codec::parts::Wire::put).collect()
    };
}

/// Takes one field, as [`put`] has put it.
macro_rules! take {
    ($kind:ident $from:expr, $field:ident) => {
        take!(@$kind $from).map_err(|fault| fault.within(stringify!($field)))
    };
    (@value $from:expr) => {
        crate::codec::parts::Wire::take($from)
    };
    (@message $from:expr) => {
        crate::codec::parts::required($from).and_then(crate::codec::parts::Wire::take)
    };
    (@option $from:expr) => {
        $from.map(crate::codec::parts::Wire::take).transpose()
    };
    (@list $from:expr) => {
        crate::codec::parts::list($from, crate::codec::MAX_SHORT_LIST_LEN)
    };
    (@long $from:expr) => {
        crate::codec::parts::list($from, crate::codec::MAX_LIST_LEN)
    };
}

/// A struct whose fields have the names of its message's.
macro_rules! fields {
    ($type:ty as $message:ident { $($field:ident: $kind:ident),* $(,)? }) => {
        impl crate::codec::parts::Wire for $type {
            type Message = crate::codec::wire::$message;

            fn put(&self) -> Self::Message {
                Self::Message { $($field: put!($kind &self.$field)),* }
            }

            fn take(message: Self::Message) -> Result<Self, crate::codec::parts::Fault> {
                Ok(Self { $($field: take!($kind message.$field, $field)?),* })
            }
        }
    };
}

/// An enum whose variants are those of a oneof: first those with fields, each as a message, then
/// those that hold one value.
macro_rules! variants {
    (
        $type:ty as $message:ident.$oneof:ident($module:ident::$kinds:ident):
        { $($variant:ident as $inner:ident { $($field:ident: $kind:ident),* })* }
        { $($holder:ident: $name:ident),* }
    ) => {
        impl crate::codec::parts::Wire for $type {
            type Message = crate::codec::wire::$message;

            fn put(&self) -> Self::Message {
                use crate::codec::wire::$module::$kinds as Kind;
                let kind = match self {
                    $(Self::$variant { $($field),* } => Kind::$variant(crate::codec::wire::$inner {
                        $($field: put!($kind $field)),*
                    }),)*
                    $(Self::$holder(value) => Kind::$holder(put!(value value)),)*
                };
                Self::Message { $oneof: Some(kind) }
            }

            fn take(message: Self::Message) -> Result<Self, crate::codec::parts::Fault> {
                use crate::codec::wire::$module::$kinds as Kind;
                let kind = message.$oneof.ok_or_else(|| {
                    crate::codec::parts::Fault::new("of no kind that this version knows")
                        .within(stringify!($oneof))
                })?;
                match kind {
                    $(Kind::$variant(inner) => {
                        // A message without fields binds nothing.
                        let crate::codec::wire::$inner { $($field),* } = inner;
                        Ok(Self::$variant { $($field: take!($kind $field, $field)
                            .map_err(|fault| fault.within(stringify!($variant)))?),* })
                    })*
                    $(Kind::$holder(value) => {
                        take!(value value, $name).map(Self::$holder)
                    })*
                }
            }
        }
    };
}

/// An enum without fields.
macro_rules! words {
    ($type:ty as $message:ident { $($variant:ident),* $(,)? }) => {
        impl crate::codec::parts::Wire for $type {
            type Message = i32;

            fn put(&self) -> i32 {
                match self {
                    $(Self::$variant => crate::codec::wire::$message::$variant.into(),)*
                }
            }

            fn take(message: i32) -> Result<Self, crate::codec::parts::Fault> {
                match crate::codec::wire::$message::try_from(message) {
                    $(Ok(crate::codec::wire::$message::$variant) => Ok(Self::$variant),)*
                    Ok(crate::codec::wire::$message::Unspecified) | Err(_) => {
                        let text = format!("{message} is none of the known values");
                        Err(crate::codec::parts::Fault::new(text))
                    }
                }
            }
        }
    };
}

pub(super) use {fields, put, take, variants, words};

const _: () = assert!(MAX_SHORT_LIST_LEN <= super::MAX_LIST_LEN);
