"""OCI registries: a place to serve images from, and the place where bootable containers lie.

    credentials   who we are to which registry, from the files that podman and docker keep
    challenge     what a 401 asks for
    registries    tokens for whoever fetches: implements `agent.payload.registry.Registry`
    manifest      image manifests and indexes, as documents
    repository    one repository: manifests and blobs, read and written
    push          an image to a registry, chunk by chunk, only what is not there yet
    blob          one blob as a stream that survives broken connections
    container     a bootable container: its layers, surveyed and streamed

Specifications: OCI distribution 1.1, OCI image 1.1; the token protocol is that of the distribution
project ("Token Authentication Specification").
"""
