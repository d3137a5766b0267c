//! How stored values get new fields, and which state version a value needs.
//!
//! A struct in the log or in a snapshot is encoded in two parts. The first part has the fields of the first
//! version, in their order. The second part is a list of the later fields that are set, each with a number. So a
//! value without later fields has the same bytes in every version, whichever build wrote it. The list is empty
//! while the state has an older version, because a command that sets a later field needs that field's version
//! ([`Needs`]).
//!
//! A build never has to parse a field that it does not know. The header of every log entry and every snapshot
//! says which version the bytes need (see [`super::codec`]).

use std::sync::Arc;

use bincode::{Decode, Encode};

use super::address::Address;
use super::name::{InstanceKey, Name, ServiceKey};

/// The state version that a value needs: 1, or the newest version of a later field or variant in it.
pub(crate) trait Needs {
    fn needs(&self) -> u32;
}

/// The list of later fields for a struct that has none yet.
#[derive(Encode, Decode)]
pub(crate) enum NoLaterField {}

/// Says how a struct is stored: its fields of the first version, in order, and then the later ones.
///
/// ```ignore
/// stored!(TrafficPolicy { timeouts, retries } later LaterTrafficField {
///     2 RequestLenMax(request_len_max: Option<u64>),
/// });
/// ```
///
/// A later field is absent while it has its type's default value, so the default must mean "not set". Later fields
/// are only ever appended. The compiler reports a field that is missing here.
macro_rules! stored {
    ($type:ident { $($first:ident),* $(,)? }) => {
        stored!(@impl $type { $($first),* } crate::versioned::NoLaterField {});
    };
    ($type:ident { $($first:ident),* $(,)? } later $later:ident {
        $($(#[$attr:meta])* $version:literal $variant:ident($field:ident: $value:ty)),+ $(,)?
    }) => {
        /// The later fields. Variants are only ever appended.
        #[derive(bincode::Encode, bincode::Decode)]
        enum $later {
            $($(#[$attr])* $variant($value)),+
        }
        stored!(@impl $type { $($first),* } $later {
            $($(#[$attr])* $version $variant($field: $value)),+
        });
    };
    (@impl $type:ident { $($first:ident),* } $later:path {
        $($(#[$attr:meta])* $version:literal $variant:ident($field:ident: $value:ty)),*
    }) => {
        const _: () = {
            type Later = $later;

            impl $type {
                #[allow(unused_mut, clippy::vec_init_then_push, reason = "there may be no later field in this build")]
                fn later_fields(&self) -> Vec<Later> {
                    let mut set = Vec::new();
                    $(
                        $(#[$attr])*
                        if self.$field != <$value>::default() {
                            set.push(Later::$variant(self.$field.clone()));
                        }
                    )*
                    set
                }

                fn set_later_field(&mut self, field: Later) {
                    match field {
                        $($(#[$attr])* Later::$variant(value) => self.$field = value,)*
                    }
                }
            }

            impl bincode::Encode for $type {
                fn encode<E: bincode::enc::Encoder>(
                    &self,
                    encoder: &mut E,
                ) -> Result<(), bincode::error::EncodeError> {
                    $(bincode::Encode::encode(&self.$first, encoder)?;)*
                    bincode::Encode::encode(&self.later_fields(), encoder)
                }
            }

            impl<Context> bincode::Decode<Context> for $type {
                fn decode<D: bincode::de::Decoder<Context = Context>>(
                    decoder: &mut D,
                ) -> Result<Self, bincode::error::DecodeError> {
                    $(let $first = bincode::Decode::decode(decoder)?;)*
                    let mut value =
                        Self { $($first,)* $($(#[$attr])* $field: <$value>::default(),)* };
                    let later: Vec<Later> = bincode::Decode::decode(decoder)?;
                    later.into_iter().for_each(|field| value.set_later_field(field));
                    Ok(value)
                }
            }

            bincode::impl_borrow_decode!($type);

            impl crate::versioned::Needs for $type {
                fn needs(&self) -> u32 {
                    let first = [1, $(crate::versioned::Needs::needs(&self.$first)),*];
                    let later = self.later_fields();
                    let later = later.iter().map(|field| -> u32 {
                        match *field {
                            $($(#[$attr])* Later::$variant(_) => $version,)*
                        }
                    });
                    first.into_iter().chain(later).max().unwrap_or(1)
                }
            }
        };
    };
}

/// States that a type has had no later variant since the first version. Every variant is listed, so a new one
/// does not compile before its version is stated.
macro_rules! first_version {
    ($type:ident { $($variant:ident),+ $(,)? }) => {
        impl crate::versioned::Needs for $type {
            fn needs(&self) -> u32 {
                match self {
                    $(Self::$variant)|+ => 1,
                }
            }
        }
    };
}

/// Types whose encoding never gets new fields.
macro_rules! fixed {
    ($($type:ty),+) => {
        $(impl $crate::versioned::Needs for $type {
            fn needs(&self) -> u32 {
                1
            }
        })+
    };
}

pub(crate) use {first_version, fixed, stored};

fixed!(bool, u8, u16, u32, u64, str, String);
fixed!(Name, Address, ServiceKey, InstanceKey);

impl<T: Needs + ?Sized> Needs for &T {
    fn needs(&self) -> u32 {
        (**self).needs()
    }
}

impl<T: Needs + ?Sized> Needs for Box<T> {
    fn needs(&self) -> u32 {
        (**self).needs()
    }
}

impl<T: Needs + ?Sized> Needs for Arc<T> {
    fn needs(&self) -> u32 {
        (**self).needs()
    }
}

impl<T: Needs> Needs for [T] {
    fn needs(&self) -> u32 {
        self.iter().map(Needs::needs).max().unwrap_or(1)
    }
}

impl<T: Needs> Needs for Vec<T> {
    fn needs(&self) -> u32 {
        self.as_slice().needs()
    }
}

impl<T: Needs, const N: usize> Needs for [T; N] {
    fn needs(&self) -> u32 {
        self.as_slice().needs()
    }
}

impl<T: Needs> Needs for Option<T> {
    fn needs(&self) -> u32 {
        self.as_ref().map_or(1, Needs::needs)
    }
}

macro_rules! tuple {
    ($($name:ident)+) => {
        impl<$($name: Needs),+> Needs for ($($name,)+) {
            #[allow(non_snake_case, reason = "each value has the name of its type")]
            fn needs(&self) -> u32 {
                let ($($name,)+) = self;
                [$($name.needs()),+].into_iter().max().unwrap_or(1)
            }
        }
    };
}

tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);

#[cfg(test)]
mod tests {
    use super::super::codec;
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct First {
        name: String,
    }
    stored!(First { name });

    /// The same struct, as a later build defines it.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Grown {
        name: String,
        limit: Option<u64>,
        label: String,
    }
    stored!(Grown { name } later LaterGrown {
        2 Limit(limit: Option<u64>),
        3 Label(label: String),
    });

    fn bytes(value: impl Encode) -> Vec<u8> {
        bincode::encode_to_vec(value, codec::config()).unwrap()
    }

    fn read<T: Decode<()>>(bytes: &[u8]) -> Result<T, bincode::error::DecodeError> {
        bincode::decode_from_slice(bytes, codec::config()).map(|(value, _)| value)
    }

    #[test]
    fn a_value_without_later_fields_has_the_same_bytes_in_both_builds() {
        let (first, grown) =
            (First { name: "a".into() }, Grown { name: "a".into(), ..Grown::default() });
        assert_eq!(bytes(&first), bytes(&grown));
        assert_eq!(read::<Grown>(&bytes(&first)).unwrap(), grown);
        assert_eq!(read::<First>(&bytes(&grown)).unwrap(), first);
        assert_eq!((first.needs(), grown.needs()), (1, 1));
    }

    #[test]
    fn a_later_field_states_its_version_and_is_refused_by_a_build_without_it() {
        let limited = Grown { limit: Some(5), ..Grown::default() };
        let labelled = Grown { label: "x".into(), ..limited.clone() };
        assert_eq!((limited.needs(), labelled.needs()), (2, 3));
        for value in [limited, labelled] {
            assert_eq!(read::<Grown>(&bytes(&value)).unwrap(), value);
            assert!(read::<First>(&bytes(&value)).is_err());
        }
        let nested = vec![Some((1_u64, Box::new(Grown { limit: Some(1), ..Grown::default() })))];
        assert_eq!(nested.needs(), 2, "at any depth");
    }
}
