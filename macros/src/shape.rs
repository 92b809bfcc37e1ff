//! The tokens that say what a type looks like on the wire: derives and layout hashes.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Field, Fields, Ident, Type};

/// What every path in generated code starts with.
pub(crate) fn private() -> TokenStream {
    quote!(::epicserver::__private)
}

/// The attributes that make a type archivable, readable in place and restorable.
pub(crate) fn archive_derives() -> TokenStream {
    let private = private();
    quote! {
        #[derive(#private::rkyv::Archive, #private::rkyv::Serialize, #private::rkyv::Deserialize)]
        #[rkyv(crate = ::epicserver::__private::rkyv)]
    }
}

/// States that the types of `fields` are messages, in our words. It must come before the derived traits of `ident`.
pub(crate) fn assert_messages<'a>(ident: &Ident, fields: impl Iterator<Item = &'a Field>) -> TokenStream {
    let assertions = fields.enumerate().map(|(number, Field { ty, attrs, .. })| {
        let (conditions, assertion) = (conditions(attrs), assert_message(&quote!(#ident), number, ty));
        quote!(#(#conditions)* #assertion)
    });
    quote!(#(#assertions)*)
}

/// States that one type of those that belong to `owner` is a message.
pub(crate) fn assert_message(owner: &TokenStream, number: usize, kind: &Type) -> TokenStream {
    let private = private();
    quote! {
        #[automatically_derived]
        impl #private::Holds<#number> for #owner {
            type Kind = #kind;
        }
    }
}

/// How the layouts of an item's fields are told.
#[derive(Clone, Copy)]
pub(crate) struct Layouts<'a> {
    /// The item.
    pub(crate) ident: &'a Ident,
    /// Its fields were stated with [`assert_messages`].
    pub(crate) asserted: bool,
    /// A field may mention the item itself.
    pub(crate) recursive: bool,
}

impl Layouts<'_> {
    /// A hash of the names and layouts of `fields`, under `name`. `first` is the number of the first of them.
    pub(crate) fn of_fields(self, name: &str, fields: &Fields, first: usize) -> TokenStream {
        let private = private();
        let parts = fields.iter().enumerate().map(|(number, field)| {
            let name = field.ident.as_ref().map_or_else(|| number.to_string(), ToString::to_string);
            let attributes = conditions(&field.attrs);
            let part = self.of_field(field, first + number);
            quote!(#(#attributes)* #private::layout::combine(#name, &[#part]))
        });
        quote!(#private::layout::combine(#name, &[#(#parts),*]))
    }

    /// A field that mentions the item counts by its spelling, since a layout cannot contain itself.
    fn of_field(self, field: &Field, number: usize) -> TokenStream {
        let private = private();
        let Self { ident, asserted, recursive } = self;
        let kind = &field.ty;
        if recursive && mentions(kind, ident) {
            let spelling = quote!(#kind).to_string();
            quote!(#private::layout::combine(#spelling, &[]))
        } else if asserted {
            quote!(#private::layout_of::<#ident, #number>())
        } else {
            quote_spanned!(kind.span()=> <#kind as #private::Wire>::LAYOUT)
        }
    }
}

/// Whether `kind` names the type `ident`, or `Self`.
pub(crate) fn mentions(kind: &Type, ident: &Ident) -> bool {
    struct Search<'a>(&'a Ident, bool);
    impl<'ast> Visit<'ast> for Search<'_> {
        fn visit_ident(&mut self, ident: &'ast Ident) {
            self.1 |= ident == self.0 || ident == "Self";
        }
        fn visit_type(&mut self, kind: &'ast Type) {
            visit::visit_type(self, kind);
        }
    }
    let mut search = Search(ident, false);
    search.visit_type(kind);
    search.1
}

/// The `#[cfg(..)]` attributes among `attributes`.
pub(crate) fn conditions(attributes: &[Attribute]) -> Vec<&Attribute> {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).collect()
}

/// Takes the attributes called `name` out of `attributes`.
pub(crate) fn take_attributes(attributes: &mut Vec<Attribute>, name: &str) -> Vec<Attribute> {
    let (taken, kept) = std::mem::take(attributes).into_iter().partition(|one| one.path().is_ident(name));
    *attributes = kept;
    taken
}
