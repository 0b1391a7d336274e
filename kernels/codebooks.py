"""The codebooks of the IQ1, IQ2 and IQ3 types: which points of a lattice an index may name.

A point is a few columns, each on one of three or eight levels. Points are numbered as numbers to that base, the first
column the lowest digit, and a codebook has its points in that order: it is told by a bit for each point there could be.
"""

from __future__ import annotations

import base64
import zlib
from functools import cache

import numpy as np

#: Codebook → (levels, columns of a point), in the order in which their bits follow each other.
_SHAPES = {"IQ2_XXS": (3, 8), "IQ2_XS": (3, 8), "IQ2_S": (3, 8), "IQ1": (3, 8), "IQ3_XXS": (8, 4), "IQ3_S": (8, 4)}
#: The bits, compressed.
_BITS = (
    b"c-nPWL9ZM~5w2<Vh|b`kUT4;rgGIm9vo!1}5eY}s<ILF4kxgdonLH3#nMjFpLh`}R#WJ)<&tklQw1ya8K<c-$rD0C+2M|a`LgM0QIkAwi5E79B7f"
    b"unU5URUpc6J}mX!pI@uCA)Ds=uo4ZkwoOld1v{O@IM_AP@lo^9B$wQq`a$K>{2{vBqxzpukM2a6F3aME9{;47w*0jNvp<gHZTFj21r1O=N<gNvFl"
    b"SuXW)bt&GUvsQV$SPCC=(r_#=nQwsWdKq{1yezxdzI+^)61Ohf62QR>EFoq!mbLtZ?*gO1$*=fuGT}7&32pO0fj5F0I#eUhuVid}%hz;EVBT;J>#"
    b"cGaVV!%w+#rCP}G}Vd7FwKIjhbW_G#=aKA;m2gNTM9u|iYo(_He?9WdbBxL8)2<`7{XJmPs2KH=yOP(skQO2&ylT=9M0x5-k<r1&!5(|?Yv!9%~D"
    b"O<Hds~+**cwLtq4#G0wZb+gHVJ-7Q!ZxX~(`+*O4oTj^oTA6v`21+Rjmn^afEBKv4JTGzOP8XQb-mvTNdAwT7;y>J9LuL+uQL2$=EORh@DZCzWMh"
    b"Uo=jr`rNTfSud=&Y3o4Q<WF44Hm)vYm|%F7>J4I|Y&|IyxdkUCQG^Xeqg3a$vi=9&bm_Gr3(%Xq24d68OnNFez}6ayz-$oG@q>{Kl8`Qk%)kmZ8R"
    b"bZ$$Ql=1S+m2u1GSN8(YGVgXw?W~H)vE>yI`X*S+1g~EgG`MPcjrc&Nj(5o%JwdnGh};%9T6Yq&FIwm}bD%K}LrwL~M4Jq5mSc#9CXjxg=5VMZji"
    b"v*-WN!zU-EuL#>Cu2-g)&+vvJA9B(7tM9A@=6;RjsZ;2C{>2e;lZG;~~e-zCl%hskfT1XS3TQNbAS@DQzw`*Y0%+Yc)kFXw%i#CEFsw$zuQgSe8M"
    b"Al%W9VM|I=fa3EVkcs**LF;w&YO9qg{om1U|BjX26I!d8YURUhQYeux~y`IFqq9wvnm@~q4>uXjfuI5CMFxYLs&J!glurNt!oD0L_yUfL<1~xA~E"
    b"y{0s-rn1`Re=3;r+U$aaFL(^?sX4!jK+MYi(}23@zX{8}~|5fWxOZga>C3}HE==IaKTm946S*=)F`!!~H-dII)|I-1tlYhdZXV>76mP77DL?z&4K"
    b"vNEDz)uD{Ym{F_!#9G#dE6bL3T6R%b-*_BjpOM3wt-?0VTMcK7`VjMxy;Ih2?5wX-61mnm?+mK0;~v^yNDp+a2@n;jE=}#dXy2Eo=6v~+@mn-czs"
    b"(C8?FUgzC(C<{_GL^*$AQQG?+btQw9K9>A3_3I`BLn2f?9hcFNjb*Kf=G_bFaXWXrCTE)$*l!`Bk6hZ$q&?E>nKy6VAgB&{tT7bnMaWFZ@@tF}-;"
    b"8c6zmZ^P5k0XHVnHCz9F4KVLp86G-SdpJlP+P+a&z`qzX$PT>Z*QRX2}6e4V5x>)W__kAuOjNhbNF`Xiel=5E(ku3O$aqRg=CFOB?ES2F01>eW_B"
    b"YcTX1QGghYL3n5{TTAN;5Uy%8bb~pcqwUF0Nwd%el;A=ZkFROL7Z_JCUOg6IO_Sk&llyZ^kA0ke)pq;gZIW~@%Oh5^2v(@J-S80yx=8$;p=IVe)1"
    b"jv%VP-=itz}j=O3hLIP<;uTsFIYV)nx)ssA|Tc^2-baPype@zTlNYyWvXzVh4aKX`KK-~ave-QUfw{o-%``0UfSFYVm@QJ%2!`sJ;XpC3PruYNY$"
    b"zWWDHoPPP(>*MU?W5AI4nQ{kYTx9RipU1bKi$h4^CGSrVa}M9g%krsw=X&m6l-`H`yz<5KcUjD?l-I)M$M*$fCJ&UWn=~$eIZMuM`3vtj<mqX71G"
    b"@)i?3LKAa!JGT@7a!BW$klA8%3p0(ga4pQ~pN&-ifmGfM)TT7m__bF<Oh9Hpr;AGF}#i2bs~@8-q1?hK}OwI4(h%mihAsGAqzU?3G!_L%1`NiGTf"
    b"Jc!KA%N9Qr*lV81B($~Uc-}jHa>tzy|@WyE*k}S)|<!*Y%PdR7Q&l89*yH(CCMelqME|ikr2lksux5^qR9l!EA#VSBw*^KU{65^wa@NNY4qov`-S"
    b"XzXmZ9WP!!f^ycmd2oJaxJlp!b~Sx;`ZK1og+19tf{Ls4j%I$jA7NBs4cfSph!Zdv&J+1UAi4C)6$+!G$?86HCffGJ(x+lR?}u!XG`NB3ad9#I@X"
    b"@TNz!$W+WO<hmxtblu8<K61f<T;KDGW#$H|PcK`M=w>lPl4R0ce?oq~W9aeFB6z{dq&JE<rPr$TT2bmN5eFjgl6s)yr@v?nUkE7-HW=sbY3#)X@<"
    b"emd`uho&nV`_g^A)mfxkKR(f+4R+w2x$$ZP?au!uOmiYy!IgHV9#Xe)wEO5^5BU8|pZ)m3?Sw%h{`j+`KAFLSC;9@@UZO@jVj;}|Yspg}oMdPYv)"
    b"kZrvpOGtpkISPibu6vAO$LQvK9-f#Mwn$<3trkkWFx&m0HNR?9PBZp+^2eo9jY*@9W#!I|AirA-f?*uyapFnZP|JhQ&4xZ!;-8#X;>GBdAFwQQX`"
    b"NOHq7Ha#^s<9GoUfAXH`eldBwaz)zu7yjDw11s;95C86;Tj^MSpC6IY)D-(Mh$(rp+t~|VRU_rPO88h^jzSR;Y@$Me52a4m6s0G}@9lj8j#zIM6n"
    b"apn?>lpUz9lXQ48y_)FSG!r%@AQQkH7C>?{UwYEDwJZfTPU-T0v6r<gZ2y9*}8>Wwz($=<Y<V$cPflVS|8g6N5cCnvgj|Ja-9VK1EK_w=l"
)
#: What the levels stand for: sizes, to which signs are added; those of IQ1 for -1, 0 and 1.
STEPS = {
    "IQ2_XXS": (8, 25, 43),
    "IQ2_XS": (8, 25, 43),
    "IQ2_S": (8, 25, 43),
    "IQ3_XXS": (4, 12, 20, 28, 36, 44, 52, 62),
    "IQ3_S": (1, 3, 5, 7, 9, 11, 13, 15),
}


@cache
def _bits() -> dict[str, np.ndarray]:
    data, found = np.frombuffer(zlib.decompress(base64.b85decode(_BITS)), np.uint8), {}
    for name, (levels, columns) in _SHAPES.items():
        n_bytes = -(-(levels**columns) // 8)
        found[name], data = np.unpackbits(data[:n_bytes]), data[n_bytes:]
    return found


def points(name: str) -> np.ndarray:
    """u8[points, columns]: the level of each column of each point of a codebook."""
    levels, columns = _SHAPES[name]
    numbers = np.flatnonzero(_bits()[name])
    return (numbers[:, None] // levels ** np.arange(columns) % levels).astype(np.uint8)
