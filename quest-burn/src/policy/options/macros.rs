//! Structs of options and enums of named values, declared in a policy's file.

/// The options of a policy: a struct with a default for each, read from and written as
/// `key=value,key=value`. Those that have their default are not written.
macro_rules! policy_options {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($field:ident: $type:ty = $default:expr, $key:literal, $about:literal;)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name {
            $(#[doc = $about] pub $field: $type,)+
        }

        impl $name {
            /// What is taken where nothing is said.
            pub const DEFAULT: Self = Self { $($field: $default),+ };

            /// The keys.
            pub const OPTIONS: &'static [$crate::policy::PolicyOption] = &[
                $($crate::policy::PolicyOption { key: $key, about: $about }),+
            ];
        }

        impl Default for $name {
            fn default() -> Self {
                Self::DEFAULT
            }
        }

        impl core::str::FromStr for $name {
            type Err = $crate::policy::OptionError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                use $crate::policy::{OptionError, options};
                let mut parsed = Self::DEFAULT;
                let mut seen = Vec::new();
                for pair in options::pairs(text) {
                    let (key, found) = pair?;
                    let key = match key {
                        $($key => {
                            parsed.$field = options::value($key, found)?;
                            $key
                        })+
                        _ => return Err(OptionError::Key {
                            expected: [$($key),+].join(", "),
                            found: key.to_owned(),
                        }),
                    };
                    if seen.contains(&key) {
                        return Err(OptionError::Repeated(key));
                    }
                    seen.push(key);
                }
                Ok(parsed)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let mut separator = "";
                $(if self.$field != Self::DEFAULT.$field {
                    write!(f, "{separator}{}={}", $key, self.$field)?;
                    separator = ",";
                })+
                let _ = separator;
                Ok(())
            }
        }
    };
}
pub(in crate::policy) use policy_options;

/// An option's values by name.
macro_rules! named_values {
    (
        $(#[$meta:meta])*
        $type:ident { $($(#[$about:meta])* $value:ident = $name:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$about])* $value,)+
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(match self { $(Self::$value => $name),+ })
            }
        }

        impl core::str::FromStr for $type {
            type Err = ();

            fn from_str(name: &str) -> Result<Self, ()> {
                match name {
                    $($name => Ok(Self::$value),)+
                    _ => Err(()),
                }
            }
        }

        impl $crate::policy::options::OptionValue for $type {
            fn expected() -> String {
                ["one of", &[$($name),+].join(", ")].join(" ")
            }
        }
    };
}
pub(in crate::policy) use named_values;
