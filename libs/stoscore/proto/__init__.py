"""The protocol that others define and stos speaks over gRPC: CSI (`csi.proto`, package `csi.v1`).

The generated modules are committed, so that an installation needs no compiler. After a change of a
`.proto` file run this in the root of the repository, with the `dev` extra installed:

    python -m grpc_tools.protoc -I libs --python_out=libs --pyi_out=libs --grpc_python_out=libs \\
        libs/stoscore/proto/csi.proto

`-I libs` makes the generated modules import each other as `stoscore.proto.…`.
"""
